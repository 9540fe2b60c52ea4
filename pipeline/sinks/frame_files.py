"""What the sinks that write files per frame have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.protocols import Asset
from pipeline.records import Result
from pipeline.system.files import output_name
from pipeline.system.output_folder import OutputFolder


class FrameFiles(ABC):
    """Writes ``<folder>/<asset id><suffix>``; of a video ``<folder>/<asset id>/<frame><suffix>``.

    A sink derives from it, sets ``suffix`` and defines ``contents``. Each file is written
    atomically as its frame arrives.

    Args:
        root: The run directory.
        folders: Directories of the files, relative to it.

    Attributes:
        suffix: Extension of the files, with its dot.
        needs_pixels: Whether ``contents`` reads the image; see ``DeclaresPixels``.
    """

    suffix: str
    needs_pixels: bool = True

    def __init__(self, root: Path, *folders: str) -> None:
        self.folders = folders
        self.outputs: tuple[str, ...] = tuple(f"{folder}/" for folder in folders)
        self._numbered = False
        # rooted at the run directory, so that a link in place of a folder cannot lead out
        self._folder = OutputFolder(root)

    @abstractmethod
    def contents(self, result: Result) -> Mapping[str, bytes | memoryview]:
        """Return the content of a frame's file in each folder; a folder can be missing."""

    def name(self, folder: str, asset_id: str, suffix: str, frame: int | None = None) -> str:
        """Return the name of a file, relative to the run directory."""
        return f"{folder}/{output_name(asset_id, suffix, frame)}"

    def __enter__(self) -> Any:
        """Do nothing: files are opened as frames arrive."""
        return self

    def __exit__(self, *exc_info: object) -> None:  # noqa: B027 - most sinks need no more
        """Do nothing: no file stays open."""

    def begin(self, asset: Asset) -> None:
        """Number the files by frame unless the asset is a still."""
        self._numbered = not asset.is_still

    def write(self, result: Result) -> None:
        """Write one frame's files."""
        frame = result.frame
        number = frame.index if self._numbered else None
        for folder, content in self.contents(result).items():
            self._folder.write(self.name(folder, frame.asset_id, self.suffix, number), content)

    def flush(self, asset: Asset) -> None:  # noqa: B027 - the same
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
        suffix = self.suffix if asset.is_still else ""
        for folder in self.folders:
            self._folder.remove(self.name(folder, asset.id, suffix))
