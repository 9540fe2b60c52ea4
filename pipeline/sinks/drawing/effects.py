"""Styles of masks other than colored areas: hidden instances, and a glow around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks import InstanceMasks
from pipeline.records import Predictions
from pipeline.sinks.drawing.colors import Color
from pipeline.sinks.drawing.scale import Image, Scale, enlarged

_CELLS = 8  # at most across the longer side of a hidden instance; no more detail is left
_MIN_CELL_PX = 4  # of the frame


def hide_instances(
    scene: Image, p: Predictions, scale: Scale, how: Literal["blur", "pixelate"]
) -> None:
    """Make instances unrecognizable, within their masks, or within their boxes without masks.

    Args:
        scene: uint8 ``(f * H, f * W, 3)``, BGR; changed in place.
        p: N instances with finite boxes.
        scale: Sizes.
        how: ``blur`` or ``pixelate``; both leave the mean colors of a few cells.
    """
    masks = p.masks if p.masks is not None else _of_boxes(p)
    for i in range(len(p)):
        mask, (x, y) = _crop(masks, i, scale.factor)
        if not mask.size:
            continue
        height, width = mask.shape
        part = scene[y : y + height, x : x + width]
        cell = max(max(height, width) / _CELLS, _MIN_CELL_PX * scale.factor)
        cells = max(1, round(width / cell)), max(1, round(height / cell))
        means = cv2.resize(part, cells, interpolation=cv2.INTER_AREA)
        smooth = cv2.INTER_LINEAR if how == "blur" else cv2.INTER_NEAREST
        cv2.copyTo(cv2.resize(means, (width, height), interpolation=smooth), mask, part)


def draw_halos(
    scene: Image, masks: InstanceMasks, colors: Sequence[Color], scale: Scale, opacity: float
) -> None:
    """Draw a glow around each mask, which fades away from it; the mask itself stays as it is.

    Args:
        scene: uint8 ``(f * H, f * W, 3)``, BGR; changed in place.
        masks: N masks in pixels of the frame.
        colors: The color of each mask.
        scale: Sizes; the glow is as wide as six lines.
        opacity: Opacity of the glow at the mask, in [0, 1].
    """
    reach = 6 * scale.line
    inside = np.zeros(scene.shape[:2], np.uint8)
    crops = [_crop(masks, i, scale.factor) for i in range(len(masks))]
    for mask, (x, y) in crops:
        inside[y : y + mask.shape[0], x : x + mask.shape[1]] |= mask
    for (mask, (x, y)), color in zip(crops, colors, strict=True):
        if not mask.size:
            continue
        top, left = max(0, y - reach), max(0, x - reach)
        part = scene[top : y + mask.shape[0] + reach, left : x + mask.shape[1] + reach]
        outside = np.ones(part.shape[:2], np.uint8)
        inner = outside[y - top : y - top + mask.shape[0], x - left : x - left + mask.shape[1]]
        inner[:] = 1 - mask
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, 5)
        alpha = np.maximum(1 - distance / reach, 0) * opacity
        alpha[inside[top : top + part.shape[0], left : left + part.shape[1]] != 0] = 0
        mixed = part + (np.array(color, np.float32) - part) * alpha[..., None]
        part[:] = np.rint(mixed).astype(np.uint8)


def _of_boxes(p: Predictions) -> InstanceMasks:
    height, width = p.image_size
    low = np.clip(np.floor(p.boxes[:, :2]), 0, [width, height]).astype(int).tolist()
    high = np.clip(np.ceil(p.boxes[:, 2:]), 0, [width, height]).astype(int).tolist()
    sides = [
        (max(0, y2 - y1), max(0, x2 - x1)) for (x1, y1), (x2, y2) in zip(low, high, strict=True)
    ]
    return InstanceMasks.from_crops(
        [np.ones(each, bool) for each in sides], [(x, y) for x, y in low], p.image_size
    )


def _crop(masks: InstanceMasks, i: int, factor: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return a mask in its tight box, 0 or 1, and its left and top; in pixels of the scene."""
    crop, (x, y) = masks.crop(i)
    if not crop.size:
        return np.zeros((0, 0), np.uint8), (0, 0)
    return enlarged(np.ascontiguousarray(crop).view(np.uint8), factor), (x * factor, y * factor)
