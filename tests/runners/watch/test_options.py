from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from runners.watch.runner import Watch


@pytest.mark.parametrize(
    "option",
    [
        {"ready": "now"},
        {"after": "burn"},
        {"on_change": "ask"},
        {"on_lock": "wait"},
        {"settle_s": -1},
        {"settle_s": "abc"},
        {"settle_s": None},
        {"settle_s": True},
        {"poll_s": float("nan")},
        {"poll_s": float("inf")},
        {"finalize_every_s": "often"},
        {"marker": ""},
        {"marker": "a/b"},
        {"marker": 5},
        {"ignore": "*.bak"},
        {"ignore": [1]},
        {"ignore": None},
        {"events": "maybe"},
        {"retry_failed": 3},
        {"done": 5},
        {"failed": ""},
        {"max_passes": 0},
        {"max_passes": 1.5},
        {"max_passes": True},
        {"max_passes": "x"},
        {"metrics_port": 70000},
        {"metrics_port": "x"},
    ],
    ids=str,
)
def test_bad_values_are_named(option: dict[str, object]) -> None:
    (name,) = option
    with pytest.raises(ConfigError, match=rf"^{name}: expected .*, got ") as caught:
        Watch(**option)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_bad_failure_budgets_are_named() -> None:
    with pytest.raises(ConfigError, match=r"max_failures.*'x'"):
        Watch(max_failures="x")


def test_values_at_the_edge() -> None:
    Watch(settle_s=0, poll_s=0, finalize_every_s=0, max_passes=1, max_failures=0, metrics_port=0)
