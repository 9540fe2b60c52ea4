"""Files and images as assets, skipped entries, and the checks that all sources share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, DecodeError
from pipeline.records import Frame
from pipeline.sources.decode.image import MAX_PIXELS
from pipeline.sources.decode.reading import Reader, Reading, Version, read_image, read_version
from pipeline.sources.tables.table import Row
from pipeline.validation import check_whole


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry of the input that was skipped.

    Attributes:
        path: The path, in the form of an asset id. A skipped directory includes everything in it.
        reason: In words: ``video``, ``hidden``, ``dangling link``, ``no permission``, ...
        lost: Whether the entry is a directory that could not be read, so it may contain images.
    """

    path: str
    reason: str
    lost: bool = False


@dataclass(slots=True)
class FileAsset:
    """What all assets that are read from a file have in common.

    Attributes:
        id: Path relative to the input, ``/`` separators; unique in a run.
        location: Path of the file. It becomes a ``Path`` only in ``path``, because a run may list
            a million assets.
        row: Its row in the table that lists it; ``None`` without one.
        size_bytes: Size of the file when it was last read; ``None`` before that.
        mtime_ns: Modification time of that file in nanoseconds since 1970; ``None`` before that.
    """

    id: str
    location: str | Path
    row: Row | None = field(default=None, init=False, repr=False)
    size_bytes: int | None = field(default=None, init=False)
    mtime_ns: int | None = field(default=None, init=False)
    _sha256: str | None = field(default=None, init=False, repr=False)

    @property
    def path(self) -> Path:
        """The file that it is read from."""
        return Path(self.location)

    @property
    def columns(self) -> dict[str, Any] | None:
        """The values of the table that lists it, by column; ``None`` without a table."""
        return None if self.row is None else self.row.columns()

    def __fspath__(self) -> str:
        return os.fspath(self.location)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's content, in hexadecimal digits.

        Once ``frames()`` has read the file, it is the digest of exactly the bytes that were
        decoded.

        Raises:
            DecodeError: The file cannot be read.
        """
        if self._sha256 is None:
            try:
                self._remember(self._version())
            except DecodeError as exc:
                exc.asset_id = self.id
                raise
        assert self._sha256 is not None
        return self._sha256

    def _version(self) -> Version:
        return read_version(self.path)

    def _remember(self, version: Version) -> None:
        self.size_bytes, self.mtime_ns, self._sha256 = version


@dataclass(slots=True)
class ImageAsset(FileAsset):
    """One image file.

    Attributes:
        is_still: True: it has exactly one frame.
        exif: Whether to apply the EXIF orientation.
        max_pixels: Larger images are refused.
        reader: Reads and decodes the file; by default in this process.
    """

    is_still: bool = True
    exif: bool = True
    max_pixels: int = MAX_PIXELS
    reader: Reader = field(default=read_image, repr=False)

    def frames(self) -> Iterator[Frame]:
        """Read the file once, decode it and yield its only frame.

        Raises:
            DecodeError: The file cannot be read, or is not an intact image; has the asset's id.
        """
        try:
            # without a local variable, which would keep the pixels alive after the caller is done
            yield Frame(self._read(), self.id)
        except DecodeError as exc:
            exc.asset_id = self.id
            raise

    def _read(self) -> NDArray[np.uint8]:
        try:
            reading = self._reading()
        except DecodeError as exc:
            if exc.version is not None:
                self._remember(exc.version)
            raise
        self._remember((reading.size_bytes, reading.mtime_ns, reading.sha256))
        return reading.image

    def _reading(self) -> Reading:
        return self.reader(self.path, exif=self.exif, max_pixels=self.max_pixels)


def check_options(input: str, max_pixels: int) -> str:
    """Check the arguments that all sources share, and return ``input`` as a string.

    Raises:
        ConfigError: ``input`` is missing, or ``max_pixels`` is not a positive whole number.
    """
    if not isinstance(input, (str, os.PathLike)) or not os.fspath(input):
        raise ConfigError("input is missing: set it to a file, a directory, a glob or a list")
    check_whole("max_pixels", max_pixels, 1)
    return os.fspath(input)


def user_path(text: str) -> Path:
    """Return a path that a user wrote, with a leading ``~`` expanded as in a shell."""
    path = Path(text)
    try:
        return path if path.is_symlink() or path.exists() else path.expanduser()
    except (OSError, RuntimeError):  # a name that is too long; no such user
        return path
