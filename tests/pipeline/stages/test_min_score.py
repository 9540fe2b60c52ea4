from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.records import Categories
from pipeline.stages.min_score import MinScore
from pipeline.testing import make_result


@pytest.mark.parametrize(
    ("scores", "threshold", "kept"),
    [
        pytest.param([0.9, 0.5, 0.1], 0.4, [0, 1], id="some"),
        pytest.param([0.1, 0.9, 0.5], 0.4, [1, 2], id="the order stays"),
        pytest.param([0.9, 0.7, 0.69], 0.7, [0, 1], id="equal is kept, though 0.7 is no float32"),
        pytest.param([0.9, 0.8], 0.95, [], id="none"),
        pytest.param([1.0, 0.99], 1, [0], id="one"),
    ],
)
def test_keeps_scores_from_the_threshold_on(scores, threshold, kept):
    result = make_result(scores=scores, track_ids=range(len(scores)))
    assert MinScore(threshold)(result).predictions.track_ids.tolist() == kept


@pytest.mark.parametrize("threshold", [0.7, np.float64(0.7)], ids=["float", "NumPy's float64"])
def test_compares_as_float32(threshold):
    assert len(MinScore(threshold)(make_result(scores=[0.7])).predictions) == 1


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [
        pytest.param([0.9, 0.5], 0.5, id="all pass"),
        pytest.param([0.0], 0, id="threshold 0"),
        pytest.param([], 0.5, id="no instances"),
    ],
)
def test_returns_the_same_object_when_all_stay(scores, threshold):
    result = make_result(scores=scores)
    assert MinScore(threshold)(result) is result


@pytest.mark.parametrize("threshold", [-0.1, 1.01, 50, float("nan")])
def test_refuses_what_is_no_score(threshold):
    with pytest.raises(ConfigError, match=r"threshold: expected a number from 0 to 1, got"):
        MinScore(threshold)


def test_leaves_the_maps_and_the_frame():
    segments = np.ones((48, 64), np.int32)
    result = make_result(scores=[0.9, 0.1], masks=True, sem_seg=segments, panoptic_seg=segments)
    after = MinScore(0.5)(result)
    assert after.frame is result.frame
    assert len(after.predictions.masks) == 1
    np.testing.assert_array_equal(after.predictions.sem_seg, segments)
    np.testing.assert_array_equal(after.predictions.panoptic_seg, segments)


def test_thresholds_per_class():
    result = make_result(
        scores=[0.9, 0.7, 0.6, 0.4, 0.3], classes=[0, 0, 1, 1, 2], class_names=("a", "1", "c"),
        track_ids=range(5),
    )  # fmt: skip
    stage = MinScore(0.35, {"a": 0.8, 1: 0.4})  # YAML reads the name 1 as a number
    assert stage(result).predictions.track_ids.tolist() == [0, 2, 3]
    assert stage.pushdown().min_score == 0.35
    assert MinScore(0.5, {"a": 0.1}).pushdown().min_score == 0.1
    kept = MinScore(0.3, {"a": 0.7})
    assert kept(result) is result


def test_refuses_thresholds_of_unknown_classes_and_other_values():
    categories = Categories(thing_names=("circle", "square"))
    MinScore(0.5, {"circle": 0.1}).check(categories)
    with pytest.raises(ConfigError, match=r"no class 'cirle'; did you mean 'circle'\?"):
        MinScore(0.5, {"cirle": 0.1}).check(categories)
    with pytest.raises(ConfigError, match=r"thresholds.a: expected a number from 0 to 1, got 2"):
        MinScore(0.5, {"a": 2})
