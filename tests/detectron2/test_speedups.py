"""Which speed-ups apply to a model, and how run.json describes them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

import pytest
from random_model import ARCHITECTURES, RandomModel

from pipeline.runnables.detectron2 import Detectron2
from pipeline.runnables.speedups.table import PUSHDOWN, SPEEDUPS

pytestmark = pytest.mark.detectron2

SMALL = ("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 144)


def speedups(architecture: str = "faster_rcnn", **options: Any) -> dict[str, dict[str, Any]]:
    model = RandomModel(ARCHITECTURES[architecture], SMALL)
    with Detectron2(model, "cpu", **options) as runnable:
        records = json.loads(json.dumps(runnable.describe()["speedups"]))
    assert [each["name"] for each in records] == [each.name for each in (*SPEEDUPS, *PUSHDOWN)]
    assert all(each["applied"] is not bool(each.get("reason")) for each in records)
    return {each["name"]: each for each in records}


def applied(records: dict[str, dict[str, Any]], numerics: str) -> set[str]:
    return {
        name for name, each in records.items() if each["applied"] and each["numerics"] == numerics
    }


def test_by_default() -> None:
    records = speedups()
    assert applied(records, "exact") == {"decode_best_proposals", "normalize_in_place"}
    rounding = {"fold_norms", "pool_by_sums", "channels_last", "fuse_layers"}
    assert rounding - applied(records, "rounding") <= {"fuse_layers"}  # if the CPU supports it
    assert not applied(records, "reduced")
    assert records["openvino"] == {
        "name": "openvino", "numerics": "rounding", "applied": False, "reason": "engine=torch",
    }  # fmt: skip
    assert records["pushdown"]["reason"] == "no leading stage drops instances"


def test_on_request() -> None:
    records = speedups("retinanet", precision="bf16", resize_on_device=True, min_score=0.1)
    assert applied(records, "reduced") == {"lower_precision", "resize_on_device"}
    assert applied(records, "exact") == {"pushdown"}
    assert records["pool_by_sums"]["reason"] == "the model does not pool with ROIAlign only"


def test_openvino() -> None:
    if not find_spec("openvino"):
        pytest.skip("OpenVINO is not installed")
    records = speedups("retinanet", engine="openvino", precision="bf16")
    assert "openvino" in applied(records, "rounding")
    assert applied(records, "reduced") == {"lower_precision"}
    assert records["fuse_layers"]["reason"] == records["channels_last"]["reason"]


def test_exact_applies_none() -> None:
    records = speedups("retinanet", exact=True, min_score=0.1)
    assert {each["reason"] for each in records.values()} == {"exact=true"}


def test_a_modified_model_gets_none() -> None:
    class Hooked(RandomModel):
        def load(self, device: str) -> Any:
            cfg, module = super().load(device)
            module.backbone.register_forward_hook(lambda *_: None)
            return cfg, module

    with Detectron2(Hooked(ARCHITECTURES["retinanet"], SMALL), "cpu") as runnable:
        records = runnable.describe()["speedups"]
        (warning,) = runnable.warnings
    assert {each["reason"] for each in records} == {"backbone has a forward hook"}
    assert warning == "the model runs without d2run's speed-ups: backbone has a forward hook"
