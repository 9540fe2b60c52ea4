"""Detects damage in TIFF that libtiff reports without failing, or does not check for."""

from __future__ import annotations

import contextlib
import ctypes
import re
import threading
import zlib
from collections.abc import Iterator

from PIL import _imaging
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.errors import DecodeError
from pipeline.sources.decode.formats import jpeg
from pipeline.sources.decode.formats.damage import ADVICE, SECTOR

_OFFSETS, _SIZES = (273, 324), (279, 325)  # of strips, of tiles
_COMPRESSION, _JPEG_TABLES = 259, 347
_JPEG, _DEFLATE = 7, {8, 32946}
_NEVER_ZEROS = {2, 3, 4, 5, 32773, 34925, 50000, 50001}  # fax, LZW, PackBits, LZMA, Zstandard, WebP
_DECODER = re.compile(rb"Decode|JPEG")
_BLOCK = 1 << 20
_reported = threading.local()


def _report(module: bytes | None, text: bytes | None, arguments: int | None) -> None:
    """Record what libtiff would print: it invents the rows of a broken fax and continues."""
    if _DECODER.search(module or b""):  # not about metadata
        _reported.any = True


_REPORT = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(_report)
# OpenCV has its own libtiff, which is not affected.
with contextlib.suppress(AttributeError, OSError):  # Pillow was linked differently
    _libtiff = ctypes.CDLL(_imaging.__file__)
    _libtiff.TIFFSetErrorHandler(_REPORT)
    _libtiff.TIFFSetWarningHandler(None)


def load(image: TiffImageFile) -> None:
    """Decode an image, as ``image.load()`` does, and check that libtiff reports no damage.

    Raises:
        DecodeError: It is damaged.
    """
    _reported.any = False
    image.load()
    if _reported.any:
        raise DecodeError(f"damaged TIFF (libtiff cannot decode all of it): {ADVICE}")


def check(image: TiffImageFile, data: bytes) -> None:
    """Check for zeros in compressed data, and decode JPEGs with a stricter decoder.

    Args:
        image: An open image, loaded or not.
        data: The whole file.

    Raises:
        DecodeError: It is damaged.
    """
    compression = image.tag_v2.get(_COMPRESSION)
    if compression in _NEVER_ZEROS | _DEFLATE:
        suspects = (part for part in _parts(image, data) if data.find(SECTOR, *part) >= 0)
        for start, end in suspects:
            # Deflated black can be zeros, and decompressing every strip twice would take too long
            if compression in _NEVER_ZEROS or not _is_sound(data[start:end]):
                raise DecodeError(f"damaged TIFF (a part of its data is zeros): {ADVICE}")
    if compression == _JPEG:
        tables = bytes(image.tag_v2.get(_JPEG_TABLES, b""))
        left = 2 * image.width * image.height + _BLOCK  # tiles may extend beyond the image
        for start, end in _parts(image, data):
            whole = tables[:-2] + data[start + 2 : end] if tables else data[start:end]
            left -= jpeg.check(whole, max_pixels=left)


def _parts(image: TiffImageFile, data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where strips or tiles are, up to twice the file: a hostile file repeats them."""
    left = 2 * len(data)
    for offsets, sizes in zip(_OFFSETS, _SIZES, strict=True):
        pairs = zip(image.tag_v2.get(offsets, ()), image.tag_v2.get(sizes, ()), strict=False)
        for offset, size in pairs:
            if (left := left - size) < 0:
                return
            yield offset, offset + size


def _is_sound(part: bytes) -> bool:
    stream = zlib.decompressobj()
    try:
        while part and not stream.eof:
            stream.decompress(part, _BLOCK)
            part = stream.unconsumed_tail
    except zlib.error as exc:  # libtiff detects other errors, but not this one
        return "incorrect data check" not in str(exc)
    return True
