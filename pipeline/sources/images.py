"""The source for images on disk: one file, a directory, or a glob."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.sources.asset import ImageAsset, Skipped, check_options, user_path
from pipeline.sources.decode.image import MAX_PIXELS
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

    Raises:
        ConfigError: An argument is invalid. Whether ``input`` exists is checked by ``check()``.
    """

    def __init__(
        self,
        input: str,
        exif: bool = True,
        max_pixels: int = MAX_PIXELS,
        recursive: bool = True,
    ) -> None:
        self.input = check_options(input, max_pixels)
        self.exif = exif
        self.max_pixels = max_pixels
        self.recursive = recursive
        self._count: int | None = None  # without the ids, because there may be a million
        self._skipped: list[Skipped] = []

    def check(self) -> None:
        """Check that the input exists.

        Raises:
            ConfigError: It does not exist or cannot be accessed; names the absolute path.
        """
        self._resolve()

    def __iter__(self) -> Iterator[ImageAsset]:
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

    def _assets(self, found: Scan) -> Iterator[ImageAsset]:
        root = os.path.join(found.root, "")  # noqa: PTH118
        for asset_id in found.images:
            yield ImageAsset(asset_id, root + asset_id, exif=self.exif, max_pixels=self.max_pixels)

    def _scan(self) -> Scan:
        base, pattern = self._resolve()
        try:
            if pattern:
                depth = None if "**" in pattern else len(pattern)
                found = scan(
                    base, depth=depth, includes=lambda id: _matches(id.split("/"), pattern)
                )
            elif base.is_dir():
                found = scan(base, depth=None if self.recursive else 1)
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
