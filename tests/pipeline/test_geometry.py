from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou as reference

from pipeline.geometry import box_iou, greedy_nms


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0), (1, 1), (40, 30)])
def test_box_iou_is_that_of_torchvision(n, m):
    rng = np.random.default_rng(n + m)
    corners, sides = rng.uniform(0, 100, (n + m, 2)), rng.uniform(1, 60, (n + m, 2))
    boxes = np.hstack([corners, corners + sides]).astype(np.float32)
    a, b = boxes[:n], boxes[n:]
    iou = box_iou(a, b)
    assert iou.dtype == np.float32
    expected = reference(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_array_equal(iou, expected)


def test_boxes_without_area_overlap_nothing():
    boxes = np.array([[5, 5, 5, 5], [0, 0, 10, 10], [5, 0, 5, 10]], np.float32)
    np.testing.assert_array_equal(box_iou(boxes, boxes), np.diag([0, 1, 0]))
    keep = greedy_nms(boxes[[0, 0]], np.ones(2, np.float32), np.zeros(2, np.int64), 0)
    assert keep.tolist() == [True, True]


def test_boxes_that_are_not_finite_suppress_nothing():
    boxes = np.array([[np.nan, 0, 10, 10], [0, 0, np.inf, 10], [0, 0, 10, 10]], np.float32)
    keep = greedy_nms(boxes, np.ones(3, np.float32), np.zeros(3, np.int64), 0.5)
    assert keep.tolist() == [True, True, True]
