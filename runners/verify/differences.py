"""How far the results of two runs are apart, in pixels and in scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import box_iou
from pipeline.recorded import RecordedResult
from pipeline.records import Predictions

_SAME_IOU = 0.5  # boxes of one class that overlap at least this much are the same instance


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two results of the same input are apart.

    Attributes:
        px: Largest difference of a box coordinate or a keypoint, in pixels.
        score: Largest difference of a score.
        unmatched: Instances that only one of the two has.
        masks: Instances whose masks differ.
    """

    px: float = 0.0
    score: float = 0.0
    unmatched: int = 0
    masks: int = 0

    def largest(self, other: Distance) -> Distance:
        """Return the larger of each difference, and the sum of the counts."""
        return Distance(
            max(self.px, other.px),
            max(self.score, other.score),
            self.unmatched + other.unmatched,
            self.masks + other.masks,
        )


def measure_results(before: Iterable[RecordedResult], after: Iterable[RecordedResult]) -> Distance:
    """Return the distance between the frames of an input in two runs, in order of their index."""
    found = Distance()
    ours, others = iter(before), iter(after)
    our, other = next(ours, None), next(others, None)
    while our is not None or other is not None:
        if other is None or (our is not None and our.index < other.index):
            assert our is not None
            found = found.largest(Distance(unmatched=len(our.predictions)))
            our = next(ours, None)
        elif our is None or other.index < our.index:
            found = found.largest(Distance(unmatched=len(other.predictions)))
            other = next(others, None)
        else:
            found = found.largest(measure(our.predictions, other.predictions))
            our, other = next(ours, None), next(others, None)
    return found


def measure(a: Predictions, b: Predictions) -> Distance:
    """Return the distance between two predictions of the same frame."""
    pairs = _matched(a, b)
    unmatched = len(a) + len(b) - 2 * len(pairs)
    if not len(pairs):
        return Distance(unmatched=unmatched)
    i, j = pairs.T
    px = _largest(a.boxes[i], b.boxes[j])
    if a.keypoints is not None and b.keypoints is not None:
        px = max(px, _largest(a.keypoints[i][..., :2], b.keypoints[j][..., :2]))
    own, others = (each.masks.rle() if each.masks is not None else None for each in (a, b))
    masks = 0
    if own is not None and others is not None:
        masks = sum(own[x] != others[y] for x, y in pairs.tolist())
    return Distance(px, _largest(a.scores[i], b.scores[j]), unmatched, masks)


def _matched(a: Predictions, b: Predictions) -> NDArray[np.int64]:
    """Return pairs of indices, the most similar first; each instance is in one pair at most."""
    iou = np.where(a.classes[:, None] == b.classes[None], box_iou(a.boxes, b.boxes), 0)
    near = np.argwhere(iou >= _SAME_IOU)
    scores = np.abs(a.scores[near[:, 0]] - b.scores[near[:, 1]])
    order = np.lexsort((scores, -iou[near[:, 0], near[:, 1]]))
    used: tuple[set[int], set[int]] = set(), set()
    pairs = []
    for i, j in near[order].tolist():
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            pairs.append((i, j))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _largest(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0))
