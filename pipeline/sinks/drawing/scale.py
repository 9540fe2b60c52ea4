"""Scales the drawn image, its lines and its text."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
_Pixel = TypeVar("_Pixel", np.uint8, np.int32)
_SMALL_PX = 480  # images whose longer side is at most this are enlarged


class Scale(NamedTuple):
    """Sizes in pixels of the drawn image.

    They grow with the square root of the image's area, so that an overlay of 24 megapixels and a
    narrow strip can be read when they are shown on a screen.

    Attributes:
        factor: Drawn pixels per frame pixel.
        line: Thickness of boxes.
        outline: Thickness of the outlines of masks.
        font: Font scale in OpenCV's unit.
    """

    factor: int
    line: int
    outline: int
    font: float

    @classmethod
    def of(cls, height: int, width: int) -> Scale:
        """Return the scale for a frame of a size in pixels."""
        factor = _SMALL_PX // max(height, width) + 1
        side = factor * sqrt(height * width)
        return cls(
            factor, max(2, round(side / 500)), max(1, round(side / 700)), max(0.4, side / 1900)
        )

    def times(self, lines: float, text: float) -> Scale:
        """Return the scale with thicker or thinner lines, and with larger or smaller text."""
        line, outline = max(1, round(self.line * lines)), max(1, round(self.outline * lines))
        return self._replace(line=line, outline=outline, font=self.font * text)


def enlarged(pixels: NDArray[_Pixel], factor: int) -> NDArray[_Pixel]:
    """Return ``(f * H, f * W, ...)``: each pixel as ``f`` by ``f`` pixels."""
    if factor == 1:
        return pixels
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST), pixels.dtype)
