"""Greedy non-maximum suppression in NumPy, so that stages need no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def greedy_nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    groups: NDArray[np.int64],
    iou_threshold: float,
) -> NDArray[np.bool_]:
    """Find the boxes that no better box of their group overlaps by more than the threshold.

    The arithmetic is that of ``torchvision.ops.nms``: intersections over unions in float32,
    compared with the threshold in float64, ties in score won by the earlier box.

    Args:
        boxes: float32 ``(N, 4)``, ``x1, y1, x2, y2`` in pixels.
        scores: float32 ``(N,)``.
        groups: int64 ``(N,)``; boxes of different groups never suppress one another.
        iou_threshold: In [0, 1].

    Returns:
        bool ``(N,)``: which boxes stay.
    """
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1) * (y2 - y1)
    threshold = np.float64(iou_threshold)  # a Python float would be rounded to float32
    keep = np.zeros(len(boxes), bool)
    rest = np.argsort(-scores, kind="stable")
    with np.errstate(invalid="ignore"):  # 0 / 0 for empty boxes: they overlap nothing
        while len(rest):
            best, rest = rest[0], rest[1:]
            keep[best] = True
            width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest])
            height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest])
            shared = np.maximum(width, 0) * np.maximum(height, 0)
            iou = shared / (area[best] + area[rest] - shared)
            rest = rest[(groups[rest] != groups[best]) | ~(iou > threshold)]
    return keep
