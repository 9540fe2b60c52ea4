"""Places labels so that the objects stay visible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Place = tuple[int, int, int, int]
_MAX_HIDDEN = 0.3  # share of an object's box that all labels together may cover
_N_SPOTS = 10
_PREFERENCE = 0.02 * np.arange(_N_SPOTS)  # for the earlier of spots that hide about as much
_PAIRS_AT_ONCE = 1 << 18  # of spots and objects; bounds the memory


def place_labels(
    anchors: Sequence[Sequence[float]],
    sizes: Sequence[tuple[int, int]],
    objects: NDArray[np.float32],
    frame_size: tuple[int, int],
) -> list[Place | None]:
    """Find a place for each label inside the frame, for one after the other.

    Of ten spots above, below, beside and inside of what it names, a label gets the one that hides
    least. Labels do not overlap, and together they hide at most 30 % of any object's box, so that
    small objects stay visible. A label for which no spot is left has no place.

    Args:
        anchors: x1, y1, x2, y2 of what each label names.
        sizes: Width and height of each label.
        objects: float32 ``(N, 4)``: boxes of what should stay visible.
        frame_size: ``(height, width)``; all in pixels.

    Returns:
        x1, y1, x2, y2 of each label, or ``None``.
    """
    places: list[Place | None] = []
    placed = np.zeros((len(anchors), 4))
    n_placed = 0
    hidden = np.zeros(len(objects))
    step = max(1, _PAIRS_AT_ONCE // (_N_SPOTS * max(1, len(objects))))
    for first in range(0, len(anchors), step):
        some = slice(first, first + step)
        spots = _spots(np.array(anchors[some]), np.array(sizes[some]), frame_size)
        shares = _overlap(spots.reshape(-1, 4), objects) / np.maximum(_area(objects), 1)
        for around, share in zip(spots, shares.reshape(*spots.shape[:2], -1), strict=True):
            is_free = ~_overlap(around, placed[:n_placed]).any(axis=1)
            is_free &= (hidden + share <= _MAX_HIDDEN).all(axis=1)
            if not is_free.any():
                places.append(None)
                continue
            cost = np.where(is_free, share.sum(axis=1) + _PREFERENCE, np.inf)
            best = int(cost.argmin())
            hidden += share[best]
            placed[n_placed] = around[best]
            n_placed += 1
            x1, y1, x2, y2 = around[best].astype(int).tolist()
            places.append((x1, y1, x2, y2))
    return places


def _spots(
    anchors: NDArray[np.float64], sizes: NDArray[np.int64], frame_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the spots of each label, ``(labels, 10, 4)``, moved into the frame."""
    (x1, y1, x2, y2), (w, h) = anchors.T, sizes.T
    corners = np.array(
        [(x1, y1 - h), (x1, y2), (x2 - w, y1 - h), (x2 - w, y2), (x2, y1), (x1 - w, y1),
         (x1, y1), (x2 - w, y2 - h), (x2 - w, y1), (x1, y2 - h)]  # above, below, beside, inside
    ).transpose(2, 0, 1)  # fmt: skip
    room = np.maximum(np.array(frame_size[::-1]) - sizes, 0)[:, None]
    low = np.clip(np.round(corners), 0, room)
    return np.concatenate([low, low + sizes[:, None]], axis=2)


def _area(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), np.float64)


def _overlap(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the area that each of ``a`` shares with each of ``b``."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.prod(np.maximum(high - low, 0), axis=2), np.float64)
