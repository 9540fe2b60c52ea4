"""How far two results of the same frame are apart."""

from __future__ import annotations

import numpy as np

from pipeline.recorded import RecordedResult
from pipeline.records import Predictions
from pipeline.testing import make_predictions
from runners.verify.differences import Distance, measure, measure_results


def spread(n: int) -> Predictions:
    """Return instances whose boxes do not overlap, all of one class."""
    left = np.arange(n, dtype=np.float32) * 20
    boxes = np.stack([left, left * 0, left + 10, left * 0 + 10], axis=1)
    made = make_predictions(n, size=(48, 20 * n))
    return made.replace(boxes=boxes, classes=np.zeros(n, np.int64))


def test_equal_predictions() -> None:
    assert measure(spread(4), spread(4)) == Distance()
    assert measure(spread(0), spread(0)) == Distance()


def test_order_does_not_matter() -> None:
    a = spread(5)
    assert measure(a, a[[3, 1, 4, 0, 2]]) == Distance()


def test_the_largest_difference_of_each_kind() -> None:
    a = spread(4)
    boxes, scores = a.boxes.copy(), a.scores.copy()
    boxes[1, 2] += 0.5
    boxes[2, 0] -= 0.25
    scores[3] -= np.float32(0.125)
    found = measure(a, a.replace(boxes=boxes, scores=scores))
    assert (found.px, found.unmatched) == (0.5, 0)
    assert abs(found.score - 0.125) < 1e-6


def test_instances_of_one_side_only() -> None:
    a = spread(4)
    assert measure(a, a[:3]) == Distance(unmatched=1)
    assert measure(a[:0], a) == Distance(unmatched=4)
    moved = a.boxes.copy()
    moved[0] += 8  # overlaps too little to be the same
    assert measure(a, a.replace(boxes=moved)) == Distance(unmatched=2)
    assert measure(a, a.replace(classes=np.array([0, 0, 1, 0]))) == Distance(unmatched=2)


def test_keypoints_and_masks() -> None:
    a = make_predictions(2, size=(48, 64), masks=True).replace(
        keypoints=np.ones((2, 3, 3), np.float32)
    )
    assert a.masks is not None
    assert a.keypoints is not None
    points = a.keypoints.copy()
    points[1, 2, 1] += 0.75
    points[..., 2] = 0  # scores of keypoints are not pixels
    assert measure(a, a.replace(keypoints=points)) == Distance(px=0.75)
    dense = a.masks.dense()
    dense[1, :4, :4] ^= True
    other = a.replace(masks=type(a.masks).from_dense(dense))
    assert measure(a, other) == Distance(masks=1)


def test_frames_of_one_side_only() -> None:
    def frames(*indices: int) -> list[RecordedResult]:
        return [RecordedResult("v.mp4", i, i + 1, spread(2)) for i in indices]

    assert measure_results(frames(0, 1, 2), frames(0, 1, 2)) == Distance()
    assert measure_results(frames(0, 2, 3), frames(1, 2)) == Distance(unmatched=6)
    assert measure_results(frames(), frames(5)) == Distance(unmatched=2)
