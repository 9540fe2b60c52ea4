"""A still image on disk, and the note on an entry that was left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, DecodeError
from pipeline.records import Frame
from pipeline.sources.decode.image import MAX_PIXELS
from pipeline.sources.decode.reading import Reader, Version, read_image, read_version


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry of the input that is not an asset.

    Attributes:
        path: Like an asset's id; a folder that was left out stands for all that is in it.
        reason: In words: ``video``, ``hidden``, ``dangling link``, ``no permission``, ...
        lost: A folder that could not be read: a person must be told.
    """

    path: str
    reason: str
    lost: bool = False


@dataclass(slots=True)
class ImageAsset:
    """One image file.

    Attributes:
        id: Path relative to the input, ``/`` separators; unique in a run.
        location: Where it lies; becomes ``path`` when somebody asks, for there may be a million.
        is_still: True: it has exactly one frame.
        exif: Whether to turn it upright as its EXIF orientation says.
        max_pixels: Larger pictures are refused.
        reader: Reads and decodes it; by default in this process.
        size_bytes: Size of the file as it was last read; ``None`` before that.
        mtime_ns: When that file was written, in nanoseconds since 1970; ``None`` before that.
    """

    id: str
    location: str | Path
    is_still: bool = True
    exif: bool = True
    max_pixels: int = MAX_PIXELS
    reader: Reader = field(default=read_image, repr=False)
    size_bytes: int | None = field(default=None, init=False)
    mtime_ns: int | None = field(default=None, init=False)
    _sha256: str | None = field(default=None, init=False, repr=False)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(self.location)

    def __fspath__(self) -> str:
        return os.fspath(self.location)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's content, in hexadecimal digits.

        After ``frames()`` it is that of exactly the bytes that were decoded.

        Raises:
            DecodeError: The file cannot be read.
        """
        if self._sha256 is None:
            try:
                self._remember(read_version(self.path))
            except DecodeError as exc:
                exc.asset_id = self.id
                raise
        assert self._sha256 is not None
        return self._sha256

    def frames(self) -> Iterator[Frame]:
        """Read the file once, decode it, yield its one frame.

        Raises:
            DecodeError: The file cannot be read, or is not a sound image; carries the asset's id.
        """
        try:
            # nothing is bound here, so the pixels do not outlive what the caller does with them
            yield Frame(self._read(), self.id)
        except DecodeError as exc:
            exc.asset_id = self.id
            raise

    def _read(self) -> NDArray[np.uint8]:
        try:
            reading = self.reader(self.path, exif=self.exif, max_pixels=self.max_pixels)
        except DecodeError as exc:
            if exc.version is not None:
                self._remember(exc.version)
            raise
        self._remember((reading.size_bytes, reading.mtime_ns, reading.sha256))
        return reading.image

    def _remember(self, version: Version) -> None:
        self.size_bytes, self.mtime_ns, self._sha256 = version


def check_options(input: str, max_pixels: int) -> str:
    """Return ``input`` as a string; what every source requires of its arguments.

    Raises:
        ConfigError: ``input`` is missing, or ``max_pixels`` is not a positive whole number.
    """
    if not isinstance(input, (str, os.PathLike)) or not os.fspath(input):
        raise ConfigError("input is missing: give a file, a folder, a glob or a list (input=dir/)")
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ConfigError(f"source.max_pixels: expected a positive number, got {max_pixels!r}")
    return os.fspath(input)


def user_path(text: str) -> Path:
    """Return the path that a user wrote, with a leading ``~`` expanded as a shell would."""
    path = Path(text)
    try:
        return path if path.is_symlink() or path.exists() else path.expanduser()
    except (OSError, RuntimeError):  # too long a name; no such user
        return path
