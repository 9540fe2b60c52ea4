"""Label maps as PNG."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode_png(pixels: NDArray[Any]) -> memoryview:
    """Return gray levels, uint8 or uint16 ``(H, W)``, or BGR, uint8 ``(H, W, 3)``, as PNG.

    Raises:
        ValueError: OpenCV cannot encode them.
    """
    import cv2  # takes 0.1 s, which most commands do not need

    # level 1: label maps have few edges, and higher levels cost more than they save
    done, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError("it cannot be encoded as PNG")
    return memoryview(png.data)


def panoptic_colors(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """Return COCO's colors of segment ids, uint8 ``(H, W, 3)`` BGR: id = R + 256 G + 65536 B."""
    # the least significant byte, red, comes last
    return np.stack([(ids >> bits).astype(np.uint8) for bits in (16, 8, 0)], axis=2)
