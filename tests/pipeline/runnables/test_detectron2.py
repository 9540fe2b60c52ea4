"""The options of a Detectron2 runnable, checked before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.protocols import PipelinedRunnable
from pipeline.records import Categories
from pipeline.runnables import detectron2
from pipeline.runnables import options as runnable_options
from pipeline.runnables.detectron2 import Detectron2


def built(device: str = "cpu", **options: Any) -> Detectron2:
    model: Any = SimpleNamespace(categories=Categories(thing_names=("crack",)))
    return Detectron2(model, device, **options)


@pytest.fixture(params=[True, False], ids=["with openvino", "without"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(runnable_options, "find_spec", lambda name: request.param or None)
    monkeypatch.setattr(detectron2.metadata, "version", lambda name: "1.2.3")
    return bool(request.param)


def test_is_pipelined() -> None:
    assert isinstance(built(), PipelinedRunnable)
    assert built().class_names == ("crack",)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"exact": "yes"}, "exact: expected true or false, got 'yes'"),
        ({"engine": "rt"}, "engine: expected auto, torch, openvino or compile, got 'rt'"),
        ({"precision": "int8"}, "precision: expected fp32, bf16 or fp16, got 'int8'"),
        ({"precision": "fp16"}, "precision: fp16 needs a CUDA device"),
        ({"precision": "fp16", "device": "auto", "engine": "openvino"}, "needs a CUDA device"),
        ({"engine": "openvino", "device": "cuda:0"}, "runs on the CPU only, not on cuda:0"),
        ({"exact": True, "precision": "bf16"}, "precision: bf16 is not exact"),
        ({"exact": True, "engine": "openvino"}, "engine: openvino is not exact"),
        ({"exact": True, "resize_on_device": True}, "resize_on_device: not exact"),
        ({"batch_size": 0}, "batch_size: expected auto or a whole number of at least 1, got 0"),
        ({"batch_size": "many"}, "batch_size: .* got 'many'"),
        ({"batch_size": True}, "batch_size: .* got True"),
        ({"forwards": 0}, "forwards: expected auto or a whole number from 1 to 1024, got 0"),
        ({"forwards": 2.0}, "forwards: .* got 2.0"),
        ({"forwards": 2, "exact": True}, "forwards: exact runs one forward at a time, not 2"),
        ({"forwards": 2, "engine": "compile"}, "forwards: engine compile runs one forward"),
        ({"forwards": 2, "device": "cuda:0"}, "forwards: CUDA runs one forward at a time"),
        ({"cache": "folder"}, "cache: only engine=openvino has a cache, not auto"),
        ({"min_score": 1.5}, "min_score: expected a number from 0 to 1, got 1.5"),
        ({"cache": "", "engine": "torch"}, "cache: expected a directory or null, got ''"),
        ({"forwards": 100_000}, "forwards: .* got 100000"),
        ({"classes": "person"}, "classes: expected a list of class names or null, got 'person'"),
        ({"max_instances": -1}, "max_instances: expected null or a whole number of at least 0"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], says: str, installed: bool) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        built(**options)
    if not (options.get("engine") == "openvino" and not installed):
        assert len(caught.value.problems) == 1


def test_all_problems_are_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        built(engine="x", precision="y", max_instances=-1)
    names = [problem.partition(":")[0] for problem in caught.value.problems]
    assert names == ["engine", "precision", "max_instances"]


def test_openvino_must_be_installed(installed: bool) -> None:
    if installed:
        assert built(engine="openvino").numerics["openvino"] == "1.2.3"
        return
    with pytest.raises(ConfigError, match=r"pip install 'd2run\[openvino\]'"):
        built(engine="openvino")


@pytest.mark.parametrize(
    ("options", "engine"),
    [
        ({}, "torch"),
        ({"device": "cuda:0"}, "torch"),
        ({"exact": True}, "torch"),
        ({"engine": "torch"}, "torch"),
        ({"engine": "compile"}, "compile"),
    ],
)
def test_the_engine(options: dict[str, Any], engine: str, installed: bool) -> None:
    numerics = built(**options).numerics
    assert numerics["engine"] == engine
    assert numerics["openvino"] is None


def test_numerics_differ_where_digits_do() -> None:
    options: list[dict[str, Any]] = [
        {}, {"exact": True}, {"engine": "compile"}, {"precision": "bf16"},
        {"resize_on_device": True}, {"min_score": 0.5}, {"max_instances": 5},
        {"classes": ["a"]}, {"classes": []},
    ]  # fmt: skip
    assert len({str(built(**option).numerics) for option in options}) == len(options)
    ignored = built(exact=True, min_score=0.5, classes=["a"], max_instances=5).numerics
    assert ignored == built(exact=True).numerics


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from types import SimpleNamespace; from pipeline.records import Categories\n"
        "from pipeline.runnables.detectron2 import Detectron2\n"
        "Detectron2(SimpleNamespace(categories=Categories(thing_names=('a',))), 'cpu').numerics\n"
        "print([name for name in ('torch', 'detectron2', 'openvino') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_installed_version_is_recorded() -> None:
    openvino = pytest.importorskip("openvino")
    assert openvino.__version__.startswith(str(built(engine="openvino").numerics["openvino"]))
