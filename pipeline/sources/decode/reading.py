"""Reads image files: completely, checked for concurrent changes, with the digest of the bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DecodeError
from pipeline.sources.decode.image import MAX_PIXELS, DecodeJpeg, decode_image
from pipeline.sources.part import Part
from pipeline.system.os_errors import describe_os_error

# Twice the size of the largest uncompressed image (16-bit RGBA): a video or an archive with the
# name of an image must not be read into memory.
_MAX_BYTES_PER_PIXEL = 16
_HEADERS = 64 << 20

# Errors that can pass within moments: an unreachable server, a lack of memory or descriptors. Not
# those that last until someone acts, such as a missing file or permission.
# fmt: off
_PASSING = {getattr(errno, name, None) for name in (  # EREMOTEIO exists only on Linux
    "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH",
    "EINTR", "EIO", "EMFILE", "ENETDOWN", "ENETRESET", "ENETUNREACH", "ENFILE", "ENOBUFS", "ENOMEM",
    "ENOTCONN", "EREMOTEIO", "ESTALE", "ETIMEDOUT",
)} - {None}
# fmt: on
_PAUSES_S = (0.1, 0.4)

T = TypeVar("T")
Sleep = Callable[[float], object]
Progress = Callable[[], object]
Version = tuple[int, int, str]  # size in bytes, mtime in ns, SHA-256


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A decoded image, and the version of the file that it was decoded from.

    Attributes:
        image: uint8 ``(H, W, 3)``, BGR, contiguous and writable.
        size_bytes: Size of the file.
        mtime_ns: Modification time in nanoseconds since 1970, unchanged while reading.
        sha256: SHA-256 of its content, in hexadecimal digits.
    """

    image: NDArray[np.uint8]
    size_bytes: int
    mtime_ns: int
    sha256: str


class Reader(Protocol):
    """Reads and decodes an image file, here or in another process. Called on several threads."""

    def __call__(
        self, path: Path, *, exif: bool, max_pixels: int, part: Part | None = None
    ) -> Reading:
        """Return the image in a file, or in a part of it.

        Raises:
            DecodeError: The file cannot be read, or is not an intact image. Has the ``version``
                that was read and the number of ``attempts``.
        """
        ...


def read_image(
    path: Path,
    *,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    part: Part | None = None,
    decode_jpeg: DecodeJpeg | None = None,
    sleep: Sleep = time.sleep,
) -> Reading:
    """Read and decode a file in this process: the default ``Reader``.

    Args:
        path: A regular file, or a link to one.
        exif: Apply the EXIF orientation.
        max_pixels: Refuse a larger image.
        part: The part of the file that is the image; by default all of it.
        decode_jpeg: See ``decode_image``.
        sleep: Called with the seconds to wait before another attempt.

    Raises:
        DecodeError: See ``read_bytes`` and ``decode_image``.
    """
    data, version = read_bytes(path, max_pixels=max_pixels, part=part, sleep=sleep)
    try:
        image = decode_image(data, exif=exif, max_pixels=max_pixels, decode_jpeg=decode_jpeg)
        return Reading(image, *version)
    except DecodeError as exc:
        exc.version = version
        raise


def read_bytes(
    path: Path,
    *,
    max_pixels: int = MAX_PIXELS,
    part: Part | None = None,
    sleep: Sleep = time.sleep,
) -> tuple[bytes, Version]:
    """Return the content of a file that can be an image of at most ``max_pixels`` pixels.

    Makes up to three attempts if the disk or network fails temporarily, or if the file changes
    while it is read.

    Args:
        path: A regular file, or a link to one.
        max_pixels: Refuse a file that is too large for such an image.
        part: The part of the file to return; by default all of it.
        sleep: Called with the seconds to wait before another attempt.

    Returns:
        The content, and its size, the modification time of the file, and its SHA-256.

    Raises:
        DecodeError: It cannot be read, is not a regular file, or is too large.
    """

    def once() -> tuple[bytes, Version]:
        with opened(path) as (file, before):
            check_bytes(before.st_size if part is None else part.memory, max_pixels)
            if part is None:
                # one more than expected, to notice a file that grows
                data = file.read(before.st_size + 1)
                _check_unchanged(file, before, len(data))
            else:
                part.check(before)
                data = part.read(file)
                part.check(os.fstat(file.fileno()))
        return data, (len(data), before.st_mtime_ns, hashlib.sha256(data).hexdigest())

    return _tried(once, sleep)


def check_bytes(size: int, max_pixels: int) -> None:
    """Check that a file of this size can be an image of at most ``max_pixels`` pixels.

    Raises:
        DecodeError: It is too large.
    """
    if size > max_bytes(max_pixels):
        raise DecodeError(
            f"file of {size / 1e6:.0f} MB is too large for an image of at most "
            f"{max_pixels / 1e6:.9g} megapixels (raise source.max_pixels)"
        )


def max_bytes(max_pixels: int) -> int:
    """Return the size of the largest file that can be an image of at most ``max_pixels`` pixels."""
    return _MAX_BYTES_PER_PIXEL * max_pixels + _HEADERS


def read_version(
    path: Path, *, sleep: Sleep = time.sleep, progress: Progress = lambda: None
) -> Version:
    """Return size, modification time and SHA-256 of a file of any size, without decoding it.

    Args:
        path: A regular file, or a link to one.
        sleep: Called with the seconds to wait before another attempt.
        progress: Called after each block.

    Raises:
        DecodeError: It cannot be read, or is not a regular file.
    """

    def once() -> Version:
        digest, size = hashlib.sha256(), 0
        with opened(path) as (file, before):
            while size <= before.st_size and (block := file.read(1 << 20)):
                digest.update(block)
                size += len(block)
                progress()
            _check_unchanged(file, before, size)
        return size, before.st_mtime_ns, digest.hexdigest()

    return _tried(once, sleep)


def _tried(once: Callable[[], T], sleep: Sleep) -> T:
    for attempt in count(1):
        try:
            return once()
        except (OSError, ValueError) as exc:  # ValueError: the path contains a NUL
            passing = isinstance(exc, OSError) and exc.errno in _PASSING
            if not passing or attempt > len(_PAUSES_S):
                raise DecodeError(describe_os_error(exc), attempts=attempt) from exc
        sleep(_PAUSES_S[attempt - 1])
    raise AssertionError  # unreachable: count() is endless


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a regular file for reading, without blocking on anything else; return its status too.

    Raises:
        OSError: It cannot be opened.
        DecodeError: It is not a regular file.
    """
    # checked before opening, because opening a FIFO or a device has side effects
    _check_regular(path.stat())
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_regular(status)  # the file may have been swapped meanwhile
        yield file, status


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise DecodeError("is a directory, not an image")
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError("not a regular file")


def _check_unchanged(file: BinaryIO, before: os.stat_result, size: int) -> None:
    after = os.fstat(file.fileno())
    known = {(s.st_size, s.st_mtime_ns) for s in (before, after)}
    if known != {(size, before.st_mtime_ns)}:
        raise OSError(errno.EAGAIN, "changed while it was read")
