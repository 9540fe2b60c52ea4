from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.masks import InstanceMasks
from pipeline.stages.min_area import MinArea
from pipeline.testing import make_result

BOXES = [[0, 0, 10, 10], [5, 5, 10, 9], [0, 0, 0, 9]]  # 100, 20 and 0 pixels


@pytest.mark.parametrize(
    ("area_px", "kept"),
    [
        pytest.param(0, [0, 1, 2], id="0 keeps all"),
        pytest.param(1, [0, 1], id="empty box"),
        pytest.param(20, [0, 1], id="equal is kept"),
        pytest.param(20.5, [0], id="fraction"),
        pytest.param(101, [], id="none"),
    ],
)
def test_area_of_the_box(area_px, kept):
    result = make_result(boxes=BOXES, track_ids=[0, 1, 2])
    assert MinArea(area_px)(result).predictions.track_ids.tolist() == kept


def test_area_of_the_mask_where_there_is_one():
    bitmaps = np.zeros((3, 48, 64), bool)
    bitmaps[0, 0, :5] = True  # 5 pixels in a box of 100
    bitmaps[1, 5:9, 5:10] = True  # its box, full
    bitmaps[2, :9, :9] = True  # 81 pixels beside an empty box
    result = make_result(boxes=BOXES, masks=InstanceMasks.from_dense(bitmaps), track_ids=[0, 1, 2])
    assert MinArea(20)(result).predictions.track_ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(make_result(boxes=BOXES[:2]), id="boxes"),
        pytest.param(make_result(boxes=BOXES[:2], masks=True), id="masks"),
        pytest.param(make_result(0, masks=True), id="no instances"),
    ],
)
def test_returns_the_same_object_when_all_stay(result):
    assert MinArea(20)(result) is result


@pytest.mark.parametrize("area_px", [-1, float("nan")])
def test_refuses_what_is_no_area(area_px):
    with pytest.raises(ConfigError, match="area_px: expected a number of at least 0, got"):
        MinArea(area_px)
