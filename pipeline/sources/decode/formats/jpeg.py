"""Decodes JPEG and detects damage.

If data is missing or overwritten, libjpeg invents pixels and only warns, and Pillow ignores the
warning. simplejpeg uses the same libjpeg-turbo, returns the same pixels, and raises instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.errors import DecodeError
from pipeline.sources.decode.formats.damage import ADVICE, SECTOR

_DAMAGE = re.compile(r"Corrupt JPEG data: (.*)")
_SEGMENT = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # restart markers are part of a scan
_END = re.compile(rb"\xff\xd9")
_EOI, _SOS, _DHT = 0xD9, 0xDA, 0xC4
_HUFFMAN = {0xC0, 0xC1}  # sequential
_PROGRESSIVE = {0xC2, 0xCA}
_SOF = _HUFFMAN | _PROGRESSIVE | {0xC3, 0xC9, 0xCB}
_ESSENTIAL = _SOF | {_DHT, 0xDB, 0xDD, 0xCC, 0xE0, 0xEE}  # DQT, DRI, DAC, JFIF's, Adobe's


def decode(data: bytes, width: int, height: int, colors: str = "BGR") -> NDArray[np.uint8] | None:
    """Return the pixels of a JPEG, ``(height, width, len(colors))``.

    Args:
        data: The whole file.
        width: Width according to the header.
        height: Height according to the header.
        colors: ``BGR``, or ``CMYK`` for an image stored as CMYK.

    Returns:
        ``None`` if it is truncated, or a kind that libjpeg-turbo's own interface does not support.

    Raises:
        DecodeError: It is damaged.
    """
    pixels = np.empty((height, width, len(colors)), np.uint8)
    found = _strictly(data, colorspace=colors, buffer=pixels)
    return None if found is None or found.shape != pixels.shape else pixels


def check(data: bytes, max_pixels: int) -> int:
    """Check a JPEG that something else decodes, by decoding it at an eighth of its size.

    Args:
        data: The whole file.
        max_pixels: Larger images are not checked.

    Returns:
        The number of pixels; 0 if it is too large, is truncated, or is a kind that
        libjpeg-turbo's own interface does not support.

    Raises:
        DecodeError: It is damaged.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError:
        return 0
    if height * width > max_pixels:
        return 0
    found = _strictly(data, colorspace="BGR", min_height=1, min_width=1)
    return 0 if found is None else int(height * width)


def _strictly(data: bytes, **options: Any) -> NDArray[np.uint8] | None:
    scans = _Scans(data)
    if not scans.are_ended:
        return None
    scans.check()
    found, warning = _decoded(data, options)
    for candidate in scans.without_oddities() if warning else ():
        if (again := _decoded(candidate, options))[0] is not None:
            found, warning = again
            break
    if damage := _DAMAGE.match(warning):
        raise DecodeError(f"damaged JPEG ({damage[1]}): {ADVICE}")
    return found


def _decoded(data: bytes, options: Mapping[str, Any]) -> tuple[NDArray[np.uint8] | None, str]:
    try:
        return simplejpeg.decode_jpeg(data, **options), ""
    except ValueError as exc:
        return None, str(exc)


class _Scans:
    """Locates the header and the scans of the first image in a file.

    Args:
        data: The whole file.

    Attributes:
        are_ended: Whether the end of the image was found.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._header: list[bytes] = []  # segments before the first scan
        self._start = self._end = len(data)  # of the scans; the end marker follows
        self._kind = 0
        self._missing: dict[int, set[int]] = {}  # by component: coefficients that lack bits
        self._zeros_mean: dict[int, int] = {}  # by Huffman table: the symbol of its first code
        self._odd: list[tuple[int, int]] = []  # scans in which many zeros indicate damage
        self.are_ended = self._walk()

    def check(self) -> None:
        """Check for damage that libjpeg does not report.

        Raises:
            DecodeError: Scans are missing, or a sector of the data is zero.
        """
        if any(self._missing.values()):
            raise DecodeError(f"damaged JPEG (it ends before its last scan): {ADVICE}")
        if any(self._data.find(SECTOR, start, end) >= 0 for start, end in self._odd):
            raise DecodeError(f"damaged JPEG (a part of its data is zeros): {ADVICE}")

    def without_oddities(self) -> Iterator[bytes]:
        """Yield the image without optional segments, then also without zeros at the end."""
        scans = self._data[self._start : self._end]
        for each in (scans, scans.rstrip(b"\0")):
            yield b"".join((b"\xff\xd8", *self._header, each, b"\xff\xd9"))

    def _walk(self) -> bool:
        """Read through the image; return whether its end was found."""
        data, position, pattern, is_odd = self._data, 2, _SEGMENT, False
        while found := pattern.search(data, position):
            start, marker = found.start(), data[found.start() + 1]
            if is_odd:
                self._odd.append((position, start))
                is_odd = False
            if marker == _EOI:
                self._end = start
                return True
            position = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
            body = data[start + 4 : position]
            if marker in _SOF and len(body) > 5:
                self._kind = marker
                self._missing = {each: set(range(64)) for each in body[6::3]}
            elif marker == _DHT:
                self._note_tables(body)
            elif marker == _SOS and body and len(body) == 2 * body[0] + 4:
                self._start = min(self._start, start)
                is_odd = self._note_scan(body)
                if not self._missing:
                    pattern = _END  # this is the last scan, and long
            if start < self._start and marker in _ESSENTIAL:
                self._header.append(data[start:position])
        return False

    def _note_tables(self, body: bytes) -> None:
        while len(body) > 17:
            self._zeros_mean[body[0]] = body[17]
            body = body[17 + sum(body[1:17]) :]

    def _note_scan(self, body: bytes) -> bool:
        """Record the content of a scan; return whether many zero bits in it indicate damage.

        They do not if zeros mean "the same color, no detail", as in a uniform area; otherwise they
        would decode to the same block of noise repeatedly. The scans of progressive images contain
        plain bits, which can have any value.
        """
        tables = dict(zip(body[1:-3:2], body[2:-3:2], strict=True))  # by component
        first, last, bits = body[-3:]
        for each in tables:
            if self._kind not in _PROGRESSIVE:
                self._missing.pop(each, None)
            elif not bits & 15:
                self._missing.get(each, set()).difference_update(range(first, last + 1))
        used = (each for pair in tables.values() for each in (pair >> 4, pair & 15 | 16))
        return self._kind in _HUFFMAN and any(self._zeros_mean.get(each, 1) for each in used)
