"""IoU and NMS of boxes, in NumPy, so that stages need no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def box_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the intersection over union of each box in ``a`` with each box in ``b``.

    The arithmetic is float32, as in ``torchvision.ops``. Boxes without area overlap nothing.

    Args:
        a: float32 ``(N, 4)``, ``x1, y1, x2, y2`` in pixels.
        b: float32 ``(M, 4)``, as ``a``.

    Returns:
        float32 ``(N, M)`` in [0, 1].
    """
    ax1, ay1, ax2, ay2 = a.T[:, :, None]
    bx1, by1, bx2, by2 = b.T[:, None]
    with np.errstate(invalid="ignore"):  # boxes that are not finite
        width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1)
        height = np.minimum(ay2, by2) - np.maximum(ay1, by1)
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
        iou = np.divide(shared, union, out=np.zeros_like(union), where=union != 0)
    return np.asarray(iou)


def greedy_nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    groups: NDArray[np.int64],
    iou_threshold: float,
) -> NDArray[np.bool_]:
    """Find the boxes that no better box of their group overlaps by more than the threshold.

    Keeps exactly the boxes that ``torchvision.ops.nms`` keeps: overlaps are computed in float32
    and compared with the threshold in float64; of equal scores, the earlier box is better.

    Args:
        boxes: float32 ``(N, 4)``, ``x1, y1, x2, y2`` in pixels.
        scores: float32 ``(N,)``.
        groups: int64 ``(N,)``; boxes of different groups never suppress each other.
        iou_threshold: In [0, 1].

    Returns:
        bool ``(N,)``: which boxes to keep.
    """
    threshold = np.float64(iou_threshold)  # NumPy would round a Python float to float32
    keep = np.zeros(len(boxes), bool)
    rest = np.argsort(-scores, kind="stable")
    while len(rest):
        best, rest = rest[0], rest[1:]
        keep[best] = True
        iou = box_iou(boxes[best : best + 1], boxes[rest])[0]
        rest = rest[(groups[rest] != groups[best]) | ~(iou > threshold)]
    return keep
