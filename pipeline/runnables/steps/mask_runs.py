"""Finds the runs of instance masks directly from a mask head's probabilities.

Along a column of pixels, the interpolated probability is linear between two cells of the head, so
the rows where it crosses the threshold follow from about thirty numbers, whatever the height of
the box. No bitmap is built.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import Edges, InstanceMasks

Sample = Callable[[Edges, Edges, Edges], NDArray[np.floating]]

_THRESHOLD = 0.5  # of detectron2.modeling.postprocessing.detector_postprocess
_DOUBT = 2e-6  # per cell of the head's grid: three times the largest float32 error
_MASKS_AT_ONCE = 16  # so that the arrays of ``paste`` fit into the processor's cache


def paste(
    probs: NDArray[np.float32], boxes: NDArray[np.float32], size: tuple[int, int], sample: Sample
) -> InstanceMasks:
    """Paste a mask head's probabilities into their boxes, exactly as ``paste_masks_in_image``.

    Args:
        probs: float32 ``(N, M, M)`` in [0, 1].
        boxes: float32 ``(N, 4)``, XYXY in pixels, not empty.
        size: ``(height, width)`` of the frame.
        sample: Given mask, column and row of K pixels (int64 ``(K,)`` each), their probabilities
            in Detectron2's own arithmetic. Called for the few pixels that are so close to the
            threshold that rounding decides.
    """
    edges: list[Edges] = []
    for first in range(0, len(probs), _MASKS_AT_ONCE):
        some = slice(first, first + _MASKS_AT_ONCE)
        edges += _pasted(probs[some], boxes[some], size, sample, first)
    return InstanceMasks(size, tuple(edges))


def _pasted(
    probs: NDArray[np.float32],
    boxes: NDArray[np.float32],
    size: tuple[int, int],
    sample: Sample,
    first: int,
) -> list[Edges]:
    n, cells = probs.shape[:2]
    height, width = size
    stride = height * width + 1  # from one mask's positions to the next one's, so they never touch
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    low = np.clip(np.floor(x1), 0, width).astype(np.int64)
    counts = np.clip(np.ceil(x2), 0, width).astype(np.int64) - low
    owner = np.repeat(np.arange(n), counts)
    x = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts - low, counts)
    # probabilities along each column of pixels, at the centers of the head's rows; 0 beyond the
    # grid, which is how grid_sample pads
    grid = (
        np.pad(np.nan_to_num(probs), ((0, 0), (1, 1), (1, 1)))
        .transpose(0, 2, 1)
        .reshape(-1, cells + 2)
    )
    at = (x + 0.5 - x1[owner]) / (x2 - x1)[owner] * cells + 0.5
    left = np.clip(at.astype(np.int64), 0, cells)
    share = (at - left).astype(np.float32)[:, None]
    left += owner * (cells + 2)
    knots = np.take(grid, left, axis=0)
    knots += share * (np.take(grid, left + 1, axis=0) - knots)
    knots[:, [0, -1]] = 0

    def edges(level: float) -> Edges:
        """Find where the probability crosses a level, alternately upward and downward."""
        inside = (knots >= level).ravel()
        flips = np.flatnonzero(inside[1:] != inside[:-1])
        column, row = np.divmod(flips, cells + 2)
        before, after = knots.ravel()[flips], knots.ravel()[flips + 1]
        i = owner[column]
        y = (row - 0.5 + (level - before) / (after - before)) / cells * (y2 - y1)[i] + y1[i] - 0.5
        rows = np.clip(np.ceil(y), 0, height).astype(np.int64)
        return _odd(i * stride + x[column] * height + rows)

    # pixels that are inside for certain; those between the two levels are decided by ``sample``
    certain = edges(_THRESHOLD + _DOUBT * cells)
    doubtful = _pixels(_xor(certain, edges(_THRESHOLD - _DOUBT * cells)))
    i, position = np.divmod(doubtful, stride)
    chosen = doubtful[sample(i + first, *np.divmod(position, height)) >= _THRESHOLD]
    found = _xor(certain, chosen, chosen + 1)
    parts = np.split(found, np.searchsorted(found, np.arange(1, n) * stride))
    return [part - i * stride for i, part in enumerate(parts)]


def _xor(*edges: Edges) -> Edges:
    """Return the edges of the pixels that are in an odd number of masks."""
    return _odd(np.sort(np.concatenate(edges), kind="stable"))  # stable: merges sorted inputs


def _odd(values: Edges) -> Edges:
    """Return the values that occur an odd number of times; the input is sorted."""
    first = np.flatnonzero(np.diff(values, prepend=-1))
    counts = np.diff(first, append=len(values))
    return np.asarray(values[first[counts % 2 == 1]], np.int64)


def _pixels(edges: Edges) -> Edges:
    """Return the position of each pixel in the runs."""
    starts, counts = edges[::2], edges[1::2] - edges[::2]
    positions = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    return np.asarray(positions, np.int64)
