"""The source for images on disk: one file, a directory, or a glob."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.protocols import Asset
from pipeline.sources.asset import Skipped, check_options, user_path
from pipeline.sources.decode.options import MAX_PIXELS, FrameOptions
from pipeline.sources.kinds import Kinds
from pipeline.sources.paths import Origin, real_path
from pipeline.sources.scan import Scan, scan
from pipeline.system.os_errors import describe_os_error

_MAGIC = re.compile(r"[*?[]")


class Images:
    """Lists images on disk, in natural order of their ids.

    Hidden and temporary files are skipped, and so are files that are not images according to
    their extension; ``skipped()`` lists them. A single file is accepted whatever its name.

    Args:
        input: A file, a directory, or a glob, where ``**`` matches any number of directories.
            A name that exists is never a glob.
        exif: Apply the EXIF orientation.
        max_pixels: Refuse larger images.
        recursive: Include the subdirectories of a directory; does not apply to globs.
        pages: ``first``: an image has one frame. ``all``: each page of a TIFF and each image of an
            animated GIF, APNG or WebP is a frame.
        kinds: Which files are read instead of images only, and how; replaces ``exif``,
            ``max_pixels`` and ``pages``.

    Raises:
        ConfigError: An argument is invalid. Whether ``input`` exists is checked by ``check()``.
    """

    def __init__(
        self,
        input: str,
        exif: bool = True,
        max_pixels: int = MAX_PIXELS,
        recursive: bool = True,
        pages: Literal["first", "all"] = "first",
        kinds: Kinds | None = None,
    ) -> None:
        self.input = check_options(input, max_pixels)
        if kinds is None:
            frames = FrameOptions(exif=exif, max_pixels=max_pixels)
            kinds = Kinds(frames, videos=False, pages=pages)
        self.kinds = kinds
        self.exif, self.max_pixels = kinds.frames.exif, kinds.frames.max_pixels
        self.recursive = recursive
        self._count: int | None = None  # without the ids, because there may be a million
        self._skipped: list[Skipped] = []

    def check(self) -> None:
        """Check that the input exists.

        Raises:
            ConfigError: It does not exist or cannot be accessed; names the absolute path.
        """
        self._resolve()

    def __iter__(self) -> Iterator[Asset]:
        """Scan the input and return its assets.

        Ids are relative to the directory, or to the part of a glob before its first wildcard. The
        id of a single file is its name.

        Raises:
            ConfigError: As ``check()``.
        """
        # scans now, not at the first asset, because list() asks for the length in between
        return self._assets(self._scan())

    def __len__(self) -> int:
        """Return how many images the last scan found."""
        if self._count is None:
            self._scan()
        return self._count or 0

    def skipped(self) -> list[Skipped]:
        """Return what the last scan skipped, and why."""
        if self._count is None:
            self._scan()
        return self._skipped

    def origins(self) -> list[Origin]:
        """Return what distinguishes this input from any other."""
        base, pattern = self._resolve()
        if pattern or base.is_dir():
            return [Origin(real_path(base), "/".join(pattern))]
        return [Origin(os.path.join(real_path(base.parent), base.name))]  # noqa: PTH118

    def _assets(self, found: Scan) -> Iterator[Asset]:
        root = os.path.join(found.root, "")  # noqa: PTH118
        for asset_id in found.images:
            yield self.kinds.asset(asset_id, root + asset_id)

    def _scan(self) -> Scan:
        base, pattern = self._resolve()
        refusal = self.kinds.refusal
        try:
            if pattern:
                depth = None if "**" in pattern else len(pattern)
                found = scan(
                    base,
                    depth=depth,
                    includes=lambda id: _matches(id.split("/"), pattern),
                    refusal=refusal,
                )
            elif base.is_dir():
                depth = None if self.recursive else 1
                found = scan(base, depth=depth, refusal=refusal)
            else:
                found = Scan(base.parent, [base.name])
        except OSError as exc:
            raise ConfigError(
                f"input: cannot list '{base.absolute()}': {describe_os_error(exc)}"
            ) from exc
        self._count, self._skipped = len(found.images), found.skipped
        return found

    def _resolve(self) -> tuple[Path, Sequence[str]]:
        """Return the existing file or directory, and the part of a glob below it."""
        path = user_path(self.input)
        if _exists(path):
            return path, ()
        base, names = Path(), list(path.parts)
        while names and (not _MAGIC.search(names[0]) or _exists(base / names[0])):
            base /= names.pop(0)
        if not names:
            raise ConfigError(f"input: no file or directory '{path.absolute()}'")
        if not (_exists(base) and base.is_dir()):
            raise ConfigError(f"input: no directory '{base.absolute()}', which '{path}' searches")
        if ".." in names:
            raise ConfigError(f"input: '{path}': '..' cannot follow a wildcard")
        return base, names


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        return _matches(names, pattern[1:]) or (bool(names) and _matches(names[1:], pattern))
    return bool(names) and fnmatchcase(names[0], pattern[0]) and _matches(names[1:], pattern[1:])


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as exc:
        raise ConfigError(
            f"input: cannot access '{path.absolute()}': {describe_os_error(exc)}"
        ) from exc
