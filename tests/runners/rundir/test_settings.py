from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from runners.budget import allowed
from runners.rundir.settings import differences

OLD = {
    "model": {"name": "a", "weights_sha256": "1"},
    "device": {"device": "cpu", "threads": 2},
    "stages": ["min_score"],
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({}, [], id="none"),
        pytest.param({"stages": []}, ["stages was ['min_score'], is []"], id="a list"),
        pytest.param({"model": {"name": "b", "weights_sha256": "1"}}, ["model.name was a, is b"],
                     id="nested"),
        pytest.param({"device": None}, [], id="no model is loaded"),
        pytest.param({"device": {"device": "cuda:0", "threads": None}},
                     ["device.device was cpu, is cuda:0", "device.threads was 2, is None"],
                     id="device"),
        pytest.param({"model": {"name": "a", "weights_sha256": None}}, [], id="not fetched yet"),
        pytest.param({"model": {"name": "a", "weights_sha256": "2"}},
                     ["model.weights_sha256 was 1, is 2"], id="other weights"),
        pytest.param({"extra": {f"k{i}": i for i in range(9)}},
                     [f"extra.k{i} was None, is {i}" for i in range(5)] + ["and 4 more"],
                     id="many"),
    ],
)  # fmt: skip
def test_differences(changes: dict, told: list[str]) -> None:
    assert differences(OLD, OLD | changes) == told


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), (0, 0), (7, 7), ("7", 7), ("5%", 10), (0.05, 10), ("0.05", 10), ("100%", 200),
     (" 1 % ", 2), (0.0, 0)],
)  # fmt: skip
def test_budget(given: object, expected: int | None) -> None:
    assert allowed(given, 200) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [-1, "x", "101%", "-5%", 1.5, True, "nan", "inf%"])
def test_no_budget(given: object) -> None:
    with pytest.raises(ConfigError, match=r"^max_failures: expected"):
        allowed(given, 200)  # type: ignore[arg-type]
