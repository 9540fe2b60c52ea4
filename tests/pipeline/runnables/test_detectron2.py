"""What a Detectron2 runnable says before anything is loaded."""

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


def test_it_works_in_steps() -> None:
    assert isinstance(built(), PipelinedRunnable)
    assert built().class_names == ("crack",)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": "tensorrt"}, "none of auto, torch, openvino, compile"),
        ({"precision": "int8"}, "none of fp32, bf16, fp16"),
        ({"precision": "fp16"}, "needs a CUDA device"),
        ({"precision": "fp16", "device": "auto", "engine": "openvino"}, "needs a CUDA device"),
        ({"engine": "openvino", "device": "cuda:0"}, "runs on the CPU, not on cuda:0"),
        ({"exact": True, "precision": "bf16"}, "exact is plain torch in fp32"),
        ({"exact": True, "engine": "openvino"}, "exact is plain torch in fp32"),
        ({"exact": True, "resize_on_device": True}, "exact resizes with Pillow"),
        ({"batch_size": 0}, "at least 1, or auto"),
        ({"batch_size": "many"}, "at least 1, or auto"),
        ({"forwards": 0}, "forwards is 0; it must be at least 1, or auto"),
        ({"forwards": 2.0}, "at least 1, or auto"),
        ({"forwards": 2, "exact": True}, "run one forward at once"),
        ({"forwards": 2, "engine": "compile"}, "run one forward at once"),
        ({"forwards": 2, "device": "cuda:0"}, "run one forward at once"),
        ({"cache": "folder"}, "leave it out, or add engine=openvino"),
        ({"min_score": 1.5}, "between 0 and 1"),
        ({"cache": "", "engine": "torch"}, "cache is empty"),
        ({"forwards": 100_000}, "at most 1024"),
        ({"max_instances": -1}, "at least 0"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], says: str, installed: bool) -> None:
    with pytest.raises(ConfigError, match=says):
        built(**options)


def test_all_problems_are_told() -> None:
    with pytest.raises(ConfigError) as caught:
        built(engine="x", precision="y", max_instances=-1)
    assert len(caught.value.problems) == 3


def test_openvino_that_is_not_installed(installed: bool) -> None:
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


def test_numerics_tell_what_changes_digits() -> None:
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


def test_what_is_installed_is_found() -> None:
    openvino = pytest.importorskip("openvino")
    assert openvino.__version__.startswith(str(built(engine="openvino").numerics["openvino"]))
