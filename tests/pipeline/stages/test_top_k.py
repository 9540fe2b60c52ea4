from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.stages.top_k import TopK
from pipeline.testing import make_result


@pytest.mark.parametrize(
    ("scores", "k", "kept"),
    [
        pytest.param([0.9, 0.8, 0.7], 2, [0, 1], id="sorted"),
        pytest.param([0.1, 0.9, 0.5, 0.7], 2, [1, 3], id="unsorted: the order stays"),
        pytest.param([0.5, 0.9, 0.5, 0.5], 2, [0, 1], id="tie: the earlier"),
        pytest.param([0.5] * 40, 3, [0, 1, 2], id="all equal"),
        pytest.param([0.9, 0.8], 0, [], id="0 keeps none"),
    ],
)
def test_keeps_the_best(scores, k, kept):
    result = make_result(scores=scores, track_ids=range(len(scores)))
    assert TopK(k)(result).predictions.track_ids.tolist() == kept


@pytest.mark.parametrize(
    ("n", "k"),
    [
        pytest.param(3, 3, id="as many"),
        pytest.param(2, 3, id="fewer"),
        pytest.param(0, 0, id="none of none"),
    ],
)
def test_returns_the_same_object_when_all_stay(n, k):
    result = make_result(n)
    assert TopK(k)(result) is result


@pytest.mark.parametrize("k", [-1, 2.5, "3", None])
def test_refuses_what_is_no_count(k):
    with pytest.raises(ConfigError, match="k: expected a whole number of at least 0, got"):
        TopK(k)
