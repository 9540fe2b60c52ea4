"""A still image on disk, and the note on an entry that was left out."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import ConfigError, DecodeError
from pipeline.sources.decode import MAX_PIXELS, decode_image
from pipeline.types import Frame

# More than the largest uncompressed form (16-bit RGBA) of the largest picture, twice over: a film
# or an archive with an image's name must not be read into memory.
_MAX_BYTES_PER_PIXEL = 16
_HEADERS = 64 << 20


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
        path: Where it lies.
        fps: ``None``: a still image.
        exif: Whether to turn it upright as its EXIF orientation says.
        max_pixels: Larger pictures are refused.
        size_bytes: Size of the file as it was last read; ``None`` before that.
    """

    id: str
    path: Path
    fps: float | None = None
    exif: bool = True
    max_pixels: int = MAX_PIXELS
    size_bytes: int | None = field(default=None, init=False)
    _sha256: str | None = field(default=None, init=False, repr=False)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's content, in hexadecimal digits.

        After ``frames()`` it is that of exactly the bytes that were decoded.

        Raises:
            DecodeError: The file cannot be read.
        """
        if self._sha256 is None:
            digest, size = hashlib.sha256(), 0
            with self._opened() as file:
                while block := file.read(1 << 20):
                    digest.update(block)
                    size += len(block)
            self._sha256, self.size_bytes = digest.hexdigest(), size
        return self._sha256

    def frames(self) -> Iterator[Frame]:
        """Read the file once, decode it, yield its one frame.

        Raises:
            DecodeError: The file cannot be read, or is not a sound image; carries the asset's id.
        """
        try:
            # nothing is bound here, so neither bytes nor pixels outlive what the caller does
            yield Frame(
                decode_image(self._read(), exif=self.exif, max_pixels=self.max_pixels), self.id
            )
        except DecodeError as exc:
            exc.asset_id = self.id
            raise

    def _read(self) -> bytes:
        with self._opened() as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MAX_BYTES_PER_PIXEL * self.max_pixels + _HEADERS:
                raise DecodeError(
                    f"file of {size / 1e6:.0f} MB is too large for an image of at most "
                    f"{self.max_pixels / 1e6:.9g} megapixels (raise source.max_pixels)"
                )
            data = file.read()
        self.size_bytes = len(data)
        self._sha256 = hashlib.sha256(data).hexdigest()
        return data

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            # Before opening: to open a FIFO or a device is to do something to it.
            _check_regular(self.path.stat(), self.id)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                _check_regular(os.fstat(descriptor), self.id)  # it may have been swapped since
                yield file
        except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
            raise DecodeError(why(exc), asset_id=self.id) from exc


def _check_regular(status: os.stat_result, asset_id: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise DecodeError("is a folder, not an image", asset_id=asset_id)
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError("not a regular file", asset_id=asset_id)


def why(exc: OSError | ValueError) -> str:
    """Return what an error of the file system means, in words without the path."""
    if isinstance(exc, PermissionError):
        return "no permission"
    if isinstance(exc, FileNotFoundError):
        return "no such file"
    text = exc.strerror if isinstance(exc, OSError) else None
    return (text or str(exc) or type(exc).__name__).lower()


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
