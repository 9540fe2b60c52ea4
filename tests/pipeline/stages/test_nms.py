from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, nms

from pipeline.errors import ConfigError
from pipeline.stages.nms import Nms
from pipeline.testing import make_result


def kept(stage, boxes, scores, classes):
    """Positions that the stage keeps, in order."""
    names = [f"class {i}" for i in range(1 + max(classes, default=0))]
    result = make_result(
        boxes=boxes, scores=scores, classes=classes, class_names=names, size=(600, 600),
        track_ids=range(len(scores)),
    )  # fmt: skip
    return stage(result).predictions.track_ids.tolist()


A, HALF, FAR = [0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]


@pytest.mark.parametrize(
    ("boxes", "scores", "classes", "threshold", "expected"),
    [
        pytest.param([A, A, FAR], [0.9, 0.8, 0.7], [0, 0, 0], 0.5, [0, 2], id="duplicate"),
        pytest.param([A, FAR, A], [0.7, 0.8, 0.9], [0, 0, 0], 0.5, [1, 2], id="the order stays"),
        pytest.param([A, A], [0.5, 0.5], [0, 0], 0.5, [0], id="tie: the earlier"),
        pytest.param([A, A], [0.9, 0.8], [0, 1], 0.5, [0, 1], id="another class"),
        pytest.param([A, HALF], [0.9, 0.8], [0, 0], 0.5, [0, 1], id="exactly the threshold stays"),
        pytest.param([A, HALF], [0.9, 0.8], [0, 0], 0.49, [0], id="just over it goes"),
        pytest.param([A, A], [0.9, 0.8], [0, 0], 1, [0, 1], id="1 keeps all"),
        pytest.param([A, [10, 0, 20, 10]], [0.9, 0.8], [0, 0], 0, [0, 1], id="touching, 0"),
        pytest.param([[3, 3, 3, 3]] * 2, [0.9, 0.8], [0, 0], 0, [0, 1], id="empty boxes"),
        pytest.param(
            [[0, 0, 10, 10], [0, 0, 10, 14], [0, 0, 10, 20]], [0.9, 0.8, 0.7], [0, 0, 0], 0.6,
            [0, 2], id="what is suppressed does not suppress",
        ),
        pytest.param([], [], [], 0.5, [], id="no instances"),
    ],
)  # fmt: skip
def test_keeps_the_best_of_overlapping_boxes(boxes, scores, classes, threshold, expected):
    assert kept(Nms(threshold), boxes, scores, classes) == expected


def test_class_agnostic():
    assert kept(Nms(0.5, class_agnostic=True), [A, A], [0.8, 0.9], [0, 1]) == [1]


def test_returns_the_same_object_when_all_stay():
    result = make_result(boxes=[A, FAR])
    assert Nms(0.5)(result) is result


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_refuses_what_is_no_overlap(threshold):
    with pytest.raises(ConfigError, match="iou_threshold: expected a number from 0 to 1, got"):
        Nms(threshold)


def scene(n, seed, grid):
    """Crowded boxes with many equal scores, on a grid of so many pixels (0: none)."""
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, 400, (n, 2)), rng.uniform(0, 150, (n, 2))
    boxes = np.hstack([corners, corners + sides]).astype(np.float32)
    if grid:
        boxes = np.rint(boxes / grid) * np.float32(grid)
    scores = np.rint(rng.uniform(0, 1, n) * 20).astype(np.float32) / 20
    return boxes, scores, rng.integers(0, 4, n)


@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 0.7, 1 / 3, 1])
@pytest.mark.parametrize("grid", [0, 1, 20], ids=["any place", "whole pixels", "many equal boxes"])
@pytest.mark.parametrize("n", [1, 7, 100, 1000])
def test_same_as_torchvision(n, grid, threshold):
    boxes, scores, classes = scene(n, n, grid)
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores)
    agnostic = sorted(nms(*tensors, threshold).tolist())
    assert kept(Nms(threshold, class_agnostic=True), boxes, scores, classes) == agnostic
    batched = sorted(batched_nms(*tensors, torch.from_numpy(classes), threshold).tolist())
    assert kept(Nms(threshold), boxes, scores, classes) == batched
