"""Reads the temporary copy of an image that is not a file of its own."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import DecodeError
from pipeline.sources.decode.reading import Reader, Reading


def read_copy(
    reader: Reader, path: Path, mtime_ns: int | None, *, exif: bool, max_pixels: int
) -> Reading:
    """Read and decode a copy; its version gets the modification time of the original.

    Raises:
        DecodeError: As ``reader``.
    """
    try:
        read = reader(path, exif=exif, max_pixels=max_pixels)
    except DecodeError as exc:
        if exc.version is not None:
            size, _, sha256 = exc.version
            exc.version = size, mtime_ns or 0, sha256
        raise
    return Reading(read.image, read.size_bytes, mtime_ns or 0, read.sha256)
