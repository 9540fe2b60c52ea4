"""Masks as polygons along the edges of their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A connected part of a mask; pixels that touch at a corner are connected.

    Each ring is int64 ``(n, 2)``: x, y of its corners in pixels, without repeating the first one.

    Attributes:
        outline: The outer ring.
        holes: The rings of its holes.
    """

    outline: Ring
    holes: tuple[Ring, ...] = ()


def trace(
    crop: NDArray[np.bool_], corner: tuple[int, int], tolerance_px: float = 0
) -> list[Region]:
    """Return the regions of a mask, largest first.

    Corners lie where pixels meet: a mask of the frame's first pixel has the corners (0, 0), (1, 0),
    (1, 1), (0, 1). So without a tolerance, the area of the polygons is the area of the mask, and
    COCO's rasterization (``pycocotools.mask.frPyObjects``) returns exactly the mask.

    Args:
        crop: bool ``(h, w)``.
        corner: Left and top of the crop in the frame, in pixels.
        tolerance_px: Omit corners as long as the outline moves by at most this distance.
    """
    import cv2  # takes 0.1 s, which most commands do not need

    if not crop.size:
        return []
    # OpenCV traces the centers of the outermost pixels. With each pixel doubled, those of a left
    # or top edge are at 2 i, those of a right or bottom edge at 2 i - 1: halves rounded up are i.
    doubled = crop.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    found: Any = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    contours, hierarchy = found
    rings = [
        _ring((contour[:, 0].astype(np.int64) + 1) // 2 + np.array(corner), tolerance_px)
        for contour in contours
    ]
    parents: list[int] = hierarchy[0, :, 3].tolist() if rings else []
    holes: dict[int, list[Ring]] = {}
    for ring, parent in zip(rings, parents, strict=True):
        holes.setdefault(parent, []).append(ring)  # -1: outlines
    regions = [
        Region(ring, tuple(holes.get(i, ())))
        for i, (ring, parent) in enumerate(zip(rings, parents, strict=True))
        if parent < 0
    ]
    return sorted(regions, key=lambda region: -_area(region.outline))


def joined(regions: list[Region]) -> Ring:
    """Return one ring of all regions and holes, joined by bridges without width.

    For formats that have one polygon per instance. Filled with the even-odd rule, as OpenCV does,
    it covers the same pixels.
    """
    first, *rest = [ring for region in regions for ring in (region.outline, *region.holes)]
    for ring in rest:
        first = _bridged(first, ring)
    return first


def _ring(points: Ring, tolerance_px: float) -> Ring:
    """Return only the corners of an outline."""
    ring = points[(points != np.roll(points, 1, 0)).any(axis=1)]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: Ring = ring[turns]
    if tolerance_px:
        import cv2

        simple: Any = cv2.approxPolyDP(corners.astype(np.int32)[:, None], tolerance_px, True)
        if len(simple) > 2:
            corners = simple[:, 0].astype(np.int64)
    return corners


def _area(ring: Ring) -> int:
    x, y = ring.T
    return abs(int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) // 2


def _bridged(first: Ring, second: Ring) -> Ring:
    """Join two rings at their closest corners."""
    distances = ((first[:, None] - second[None]) ** 2).sum(axis=2)
    i, j = np.unravel_index(int(distances.argmin()), distances.shape)
    detour = np.concatenate([second[j:], second[: j + 1]])
    return np.concatenate([first[: i + 1], detour, first[i:]])
