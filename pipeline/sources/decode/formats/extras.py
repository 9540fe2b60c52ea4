"""The image formats that only an extra can read: HEIC and JPEG XL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from typing import Any

from PIL.ImageFile import ImageFile

from pipeline.errors import DecodeError

_JXL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
_HEIC = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra that reads a format.

    Attributes:
        name: Its name in ``pyproject.toml``.
        package: The package that it installs, as Python imports it.
    """

    name: str
    package: str


_EXTRAS = {"HEIF": Extra("heif", "pillow_heif"), "JXL": Extra("jxl", "pillow_jxl")}
_OF_SUFFIX = {".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".jxl": "JXL"}
FORMATS = tuple(_EXTRAS)
SUFFIXES = frozenset(_OF_SUFFIX)


def missing_extra(suffix: str) -> str | None:
    """Return the name of the extra to install before files of a suffix can be read, if any."""
    extra = _EXTRAS.get(_OF_SUFFIX.get(suffix, ""))
    return None if extra is None or _is_installed(extra.package) else extra.name


def kind_of(data: bytes) -> str | None:
    """Return ``HEIF`` or ``JXL`` if the data is of that format, installed or not."""
    if data.startswith(_JXL):
        return "JXL"
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[at : at + 4] for at in (8, *range(16, end, 4))}
        if brands & _HEIC and not brands & {b"avif", b"avis"}:
            return "HEIF"
    return None


def check_installed(kind: str) -> None:
    """Raise DecodeError if the extra that reads a format is not installed."""
    extra = _EXTRAS.get(kind)
    if extra is not None and not _is_installed(extra.package):
        raise DecodeError(
            f"{kind} needs the extra {extra.name}: install it with `uv sync --extra {extra.name}` "
            f"or `pip install 'd2run[{extra.name}]'`"
        )


def open_heif(data: bytes) -> ImageFile:
    """Return a HEIC image, upright as its container says; its pixels are not decoded yet."""
    import pillow_heif

    opened: Callable[..., ImageFile] = pillow_heif.HeifImageFile
    return opened(BytesIO(data), "")


def open_jxl(data: bytes) -> Any:
    """Decode a JPEG XL.

    Returns:
        A ``PIL.Image.Image``, upright as the codestream says, or the ``bytes`` of the JPEG that
        was packed into the file without loss.

    Raises:
        DecodeError: The data is truncated or broken; libjxl does not say which.
    """
    from PIL import Image
    from pillow_jxl import Decoder

    try:
        is_jpeg, info, pixels, *_ = Decoder(num_threads=0)(data)
    except RuntimeError as exc:
        raise DecodeError("truncated or broken JXL") from exc
    if is_jpeg:
        return bytes(pixels)
    mode = "F" if info.mode == "F;16" else info.mode
    return Image.frombytes(mode, (info.width, info.height), pixels)


def jxl_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG XL according to its header (ISO/IEC 18181-1).

    Raises:
        DecodeError: There is no header.
    """
    start = 0
    if not data.startswith(_JXL[0]):
        start = _codestream(data)
    bits = _Bits(int.from_bytes(data[start + 2 : start + 14], "little"))
    if len(data) < start + 4 or data[start : start + 2] != _JXL[0]:
        raise DecodeError("truncated or broken JXL")
    is_small = bits.read(1)
    height = bits.side(is_small)
    ratio = bits.read(3)
    if not ratio:
        return bits.side(is_small), height
    wide, high = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * wide // high, height


def _codestream(data: bytes) -> int:
    """Return where the codestream begins in a container of boxes; its size if it has none."""
    position = 0
    while position + 16 <= len(data):
        size, name = int.from_bytes(data[position : position + 4], "big"), data[position + 4 :][:4]
        header = 16 if size == 1 else 8
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        if name in (b"jxlc", b"jxlp"):  # a part begins with its number
            return position + header + (4 if name == b"jxlp" else 0)
        if size < header:
            break
        position += size
    return len(data)


class _Bits:
    """Reads numbers from the bits of a header, the lowest bit first."""

    def __init__(self, value: int) -> None:
        self._value = value

    def read(self, count: int) -> int:
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        return value

    def side(self, is_small: int) -> int:
        if is_small:
            return 8 * (self.read(5) + 1)
        return self.read((9, 13, 18, 30)[self.read(2)]) + 1


@cache
def _is_installed(package: str) -> bool:
    return find_spec(package) is not None
