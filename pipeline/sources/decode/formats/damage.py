"""Detects damage that Pillow's decoders do not notice, such as that of an interrupted copy.

Parts of a file that were never written are zeros. Other damage is visible only in formats with
checksums.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

from pipeline.errors import DecodeError

ADVICE = "copy the file again from its origin"
SECTOR = bytes(512)  # compressed data never has this many zeros in a row, even if all is black


def check(kind: str, data: bytes) -> None:
    """Check that the compressed data of a file is intact.

    Args:
        kind: Pillow's name of the format. JPEG and TIFF are checked when they are decoded.
        data: The whole file.

    Raises:
        DecodeError: It is damaged.
    """
    if kind == "PNG":
        _check_sums(data)
    parts = _PARTS[kind](data) if kind in _PARTS else ()
    if any(data.find(SECTOR, start, end) >= 0 for start, end in parts):
        raise DecodeError(f"damaged {kind} (a part of its data is zeros): {ADVICE}")


def _check_sums(data: bytes) -> None:
    """Compare the checksums of palette and pixels; Pillow does not check those of the pixels."""
    position, view = 8, memoryview(data)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + length
        name, stated = data[position + 4 : position + 8], data[end : end + 4]
        if name == b"IEND" or len(stated) < 4:
            return
        position = end + 4
        if name not in (b"PLTE", b"IDAT"):
            continue
        if zlib.crc32(view[end - length - 4 : end]) != int.from_bytes(stated, "big"):
            raise DecodeError(f"damaged PNG (a checksum is wrong): {ADVICE}")


def _riff(data: bytes) -> Iterator[tuple[int, int]]:
    position = 12
    while position + 8 <= len(data):
        end = position + 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF"):
            yield position + 8, end
        position = end + end % 2


def _boxes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the pixels of AVIF, HEIC, JPEG XL and JPEG 2000 are.

    A bare codestream has no boxes around them.
    """
    position = 0
    if data.startswith((b"\xff\x4f\xff\x51", b"\xff\x0a")):
        yield 0, len(data)
        return
    while position + 16 <= len(data):
        size, name = int.from_bytes(data[position : position + 4], "big"), data[position + 4 :][:4]
        size = int.from_bytes(data[position + 8 : position + 16], "big") if size == 1 else size
        end = position + size if size >= 8 else len(data)
        if name in (b"jp2c", b"jxlc", b"jxlp") or (
            name == b"mdat" and b"Exif" not in data[:position]
        ):
            yield position, end
        position = end


_PARTS: dict[str, Callable[[bytes], Iterable[tuple[int, int]]]]
_PARTS = {"WEBP": _riff, "AVIF": _boxes, "HEIF": _boxes, "JPEG2000": _boxes, "JXL": _boxes}
