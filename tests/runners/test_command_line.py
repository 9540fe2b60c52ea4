"""Values reach the configuration as they are typed, whatever Hydra's grammar makes of them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from runners.command_line import hydra_arguments

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "~/a.pth", "~user/a.pth", "https://h/a.pth?dl=1&x=(2)#f", "a (1).pth", "a,b", "k=v", "#1",
    "x;y", "a&b", "it's", 'quo"te', "größe", "日本", "two  words", "$x", "back\\slash", "trail\\",
    "{", "[", "a]", "%s", "-dash", "☃.d", "a:b", "!bang", "*", '\\"', "it's, ok", "choose(1)",
    "choice(a,b)", "range(1,3)", "'a' b 'c'", "a\tb", "5%", ".5.", "new\nline",
]  # fmt: skip
LIKE_NUMBERS = ["1e5", "true", "1_000", "0x1f", "007", "nan", "3", "No", "1.0"]


def value_of(argument: str) -> Any:
    (prepared,) = hydra_arguments([argument])
    return OverridesParser.create().parse_override(prepared).value()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "key", ["model.weights", "model.name", "store.root", "runner.marker", "sink.mine.path", "++new"]
)
def test_text(key: str, text: str) -> None:
    assert value_of(f"{key}={text}") == text


@pytest.mark.parametrize("text", LIKE_NUMBERS)
@pytest.mark.parametrize("key", ["model.tag", "model.labels.team", "device"])
def test_text_that_looks_like_something_else(key: str, text: str) -> None:
    assert value_of(f"{key}={text}") == text
    assert value_of(f"model.class_names=[{text},b]") == [text, "b"]
    assert value_of(f"model.labels={{x: {text}}}") == {"x": text}


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("model.tag=null", None),
        ("input=null", "null"),
        ("seed=3", 3),
        ("exif=false", False),
        ("model.score_threshold=1e-3", 0.001),
        ("model.name='a, b'", "a, b"),
        ('model.name="x"', "x"),
        ("device=${model.name}", "${model.name}"),
        ("model.name=${oc.env:A,b}-1", "${oc.env:A,b}-1"),
        ("model.class_names=[größe,Straße (1),a=b,'c,d']", ["größe", "Straße (1)", "a=b", "c,d"]),
        ("model.class_names=names (1).txt", "names (1).txt"),
        ("model.opts=[INPUT.MIN_SIZE_TEST,640,A.B,[1,2]]", ["INPUT.MIN_SIZE_TEST", 640, "A.B",
                                                           [1, 2]]),
        ("model.labels={team: vision, place: Köln (1)}", {"team": "vision", "place": "Köln (1)"}),
        ("model.metadata={a: {b: [1,ö]}, c: 'x,y', d: true}", {"a": {"b": [1, "ö"]}, "c": "x,y",
                                                              "d": True}),
        ("+stage.mine={_target_: a.B, size: 3, names: [ä,b]}", {"_target_": "a.B", "size": 3,
                                                               "names": ["ä", "b"]}),
        ("stage=[min_score, nms]", ["min_score", "nms"]),
        ("stage=[]", []),
        ("model.metadata={}", {}),
        ("input=[a.jpg,b (1).jpg, 'c,d/' ]", ["a.jpg", "b (1).jpg", "c,d/"]),
        ("input={}", "{}"),
        ("input=[ab]*.[jJ]", "[ab]*.[jJ]"),
        ("input=photos/[1]", "photos/[1]"),
    ],
)  # fmt: skip
def test_what_is_not_text_stays(argument: str, value: Any) -> None:
    assert value_of(argument) == value


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("model.name=a,b", ["a", "b"]),
        ("model.name=a (1),größe", ["a (1)", "größe"]),
        ("model.name='a,b',c", ["a,b", "c"]),
        ("model.tag=1e5,007", ["1e5", "007"]),
        ("input=it's,b,c/", ["it's", "b", "c/"]),
        ("input=[a,b],c", [["a", "b"], "c"]),
        ("seed=1,2", [1, 2]),
        ("stage=[a],[b,c]", [["a"], ["b", "c"]]),
        ("model.class_names=[ä],[b,c]", [["ä"], ["b", "c"]]),
        ("model.variant=choice(a,b)", ["a", "b"]),
        ("seed=range(1,3)", [1, 2]),
    ],
)
def test_a_sweep(argument: str, values: list[Any]) -> None:
    (prepared,) = hydra_arguments([argument], multirun=True)
    override = OverridesParser.create().parse_override(prepared)
    assert override.is_sweep_override()
    swept = [getattr(each, "text", each) for each in override.sweep_iterator()]
    plain = [[getattr(x, "text", x) for x in e] if isinstance(e, list) else e for e in swept]
    assert plain == values


@pytest.mark.parametrize("multirun", [False, True])
def test_output_is_the_directory_of_hydra_too(multirun: bool) -> None:
    prepared = hydra_arguments(["output=~/ö (1)"], multirun=multirun)
    home = os.path.expanduser("~")  # noqa: PTH111
    if multirun:
        assert prepared == [f'hydra.sweep.dir="{home}/ö (1)"']
    else:
        assert prepared == [f'hydra.run.dir="{home}/ö (1)"', f'output="{home}/ö (1)"']


@pytest.fixture
def signals() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_the_record_has_the_start_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runners.entry import main

    monkeypatch.setenv("D2RUN_HOME", str(tmp_path / "home"))
    arguments = ["model=shapes", "runnable=fake", f"input={ROOT}/examples/shapes/scenes",
                 f"output={tmp_path}/run", "quiet=true", "sink=[]"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    assert main(started=5.25) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["start"] == "1970-01-01T00:00:05.250+00:00"
    assert record["end"] > "2020"
