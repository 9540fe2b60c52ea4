"""What the sinks that write one file per frame have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.protocols import Asset
from pipeline.records import Result
from pipeline.system.files import output_name
from pipeline.system.output_folder import OutputFolder


class FrameFiles:
    """Writes ``<directory>/<asset id><suffix>``; of a video ``<asset id>/<frame><suffix>``.

    A sink derives from it, sets ``suffix`` and defines ``encode``. Each file is written atomically
    as its frame arrives.

    Args:
        directory: Directory of the files, in the run directory.

    Attributes:
        suffix: Extension of the files, with its dot.
        needs_pixels: Whether ``encode`` reads the image; see ``DeclaresPixels``.
    """

    suffix: str
    needs_pixels: bool = True

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.outputs: tuple[str, ...] = (f"{self.directory.name}/",)
        self._numbered = False
        # rooted at the run directory, so that a link in place of the directory cannot lead out
        self._folder = OutputFolder(self.directory.parent)

    def encode(self, result: Result) -> bytes | memoryview | None:
        """Return the content of a frame's file; ``None`` for no file."""
        raise NotImplementedError

    def __enter__(self) -> Any:
        """Do nothing: files are opened as frames arrive."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: no file stays open."""

    def begin(self, asset: Asset) -> None:
        """Number the files by frame unless the asset is a still."""
        self._numbered = not asset.is_still

    def write(self, result: Result) -> None:
        """Write one frame's file."""
        frame = result.frame
        content = self.encode(result)
        if content is not None:
            number = frame.index if self._numbered else None
            self._folder.write(self._name(frame.asset_id, self.suffix, number), content)

    def flush(self, asset: Asset) -> None:
        """Do nothing: the files have their final names since ``write``."""

    def sync(self) -> None:
        """Make the names of the files durable.

        Raises:
            OSError: The disk fails.
            OutputError: A file was moved or deleted during the run.
        """
        self._folder.sync()

    def discard(self, asset: Asset) -> None:
        """Remove the asset's files, including those of an earlier run."""
        self._folder.remove(self._name(asset.id, self.suffix if asset.is_still else ""))

    def _name(self, asset_id: str, suffix: str, frame: int | None = None) -> str:
        return f"{self.directory.name}/{output_name(asset_id, suffix, frame)}"
