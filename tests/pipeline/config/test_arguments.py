"""Invalid values are reported by name, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from pipeline.config.arguments import bad_arguments
from pipeline.config.build import build_job
from pipeline.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Takes:
    flag: bool = False
    number: int = 0
    share: float = 0.0
    name: str = ""
    size: int | str = 1
    limit: int | None = None
    names: Sequence[str | int] | None = None
    pairs: tuple[int, ...] = ()
    where: Path = Path()
    anything: Any = None
    table: Mapping[str, int] | None = None


def function(bare, number: int = 0, **more: float):  # type: ignore[no-untyped-def]
    pass


class Unreadable:
    def __init__(self, x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"flag": True, "number": 3, "share": 3, "name": "x", "size": "auto", "limit": None},
        {"share": 0.5, "size": 2, "limit": 4, "names": ["a", 1], "pairs": [1, 2]},
        {"names": None, "where": "/x", "anything": object(), "table": {"a": 1}},
    ],
)
def test_what_fits(values: dict[str, Any]) -> None:
    assert list(bad_arguments(Takes, values)) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"flag": "perhaps"}, "flag: expected true or false, got 'perhaps'"),
        ({"flag": None}, "flag: expected true or false, got null"),
        ({"number": True}, "number: expected a whole number, got true"),
        ({"number": 1.5}, "number: expected a whole number, got 1.5"),
        ({"share": "x"}, "share: expected a number, got 'x'"),
        ({"share": False}, "share: expected a number, got false"),
        ({"name": 5}, """name: expected a string, got 5; to pass a string, write name='"5"'"""),
        ({"size": None}, "size: expected a whole number or a string, got null"),
        ({"limit": "x"}, "limit: expected a whole number or null, got 'x'"),
        ({"names": "person"}, "names: expected a list or null, got 'person'"),
        ({"names": [None]}, "names: expected a list or null, got [None]"),
        ({"pairs": ["x"]}, "pairs: expected a list, got ['x']"),
        ({"nubmer": 1}, "no option 'nubmer'; did you mean 'number' or 'name'?"),
    ],
)
def test_what_does_not(values: dict[str, Any], told: str) -> None:
    assert list(bad_arguments(Takes, values)) == [told]


def test_of_a_function() -> None:
    assert list(bad_arguments(function, {"bare": object(), "else": "x"})) == []
    assert list(bad_arguments(function, {"number": "x"})) == [
        "number: expected a whole number, got 'x'"
    ]


@pytest.mark.parametrize("target", [Unreadable, dict, 3])
def test_what_cannot_be_told_is_left_alone(target: Any) -> None:
    assert list(bad_arguments(target, {"x": 1})) == []


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["runnable.exact=perhaps"], "runnable.exact: expected true or false, got 'perhaps'"),
        (
            ["runnable.max_instances=1.5"],
            "runnable.max_instances: expected a whole number or null, got 1.5",
        ),
        (["stage.min_score.threshold=x"], "stage.min_score.threshold: expected a number, got 'x'"),
        (["+runnable.nonsense=1"], "no option 'runnable.nonsense'; known: runnable.exact, "),
        (["+threshold=0.9"], "no option 'threshold'; did you mean 'stage.min_score.threshold'?"),
        (["+decode.foo=1"], "no option 'decode.foo'; known: decode.jpeg, "),
        (["+stage.top_k.k=1"], "stage.top_k has no _target_, the class to build"),
        (["+runner.foo={a:1}"], "no option 'runner.foo'; known: runner.on_error, "),
        (["~decode"], "decode cannot be removed: every job needs it"),
        (["runnable=fake", "runnable.masks=3"], "runnable.masks: expected true or false, got 3"),
        (
            ["decode_threads=100000"],
            "decode_threads: expected a whole number from 1 to 1024, got 100000",
        ),
    ],
)
def test_of_a_job(
    overrides: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D2RUN_HOME", str(tmp_path / "home"))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", ["model=shapes", f"output={tmp_path}/run", *overrides])
    with pytest.raises(ConfigError) as caught:
        build_job(cfg)
    assert str(caught.value).startswith(told)
