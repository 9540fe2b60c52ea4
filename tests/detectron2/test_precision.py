"""Lower precision, and the resize on the device, on a trained model: `model=shapes`."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.records import Frame, Predictions
from pipeline.runnables.detectron2 import Detectron2
from pipeline.store import Model

pytestmark = pytest.mark.detectron2

SHAPES = Path(__file__).parents[2] / "examples" / "shapes"
ENGINES = ["torch", "openvino"]
NIGHTLY = [  # engine, precision, resize_on_device: what changes digits, beside fp32 with torch
    ("torch", "bf16", False),
    ("openvino", "fp32", False),
    ("openvino", "bf16", False),
    ("torch", "fp32", True),
]


def predictions(**options: Any) -> list[Predictions]:
    paths = sorted((SHAPES / "scenes").glob("*.jpg"))
    frames = [Frame(cv2.imread(str(path)), path.name) for path in paths]
    with Detectron2(Model("shapes", tag="shapes"), "cpu", **options) as runnable:
        return [runnable.predict([frame])[0] for frame in frames]


@cache
def exact() -> list[Predictions]:
    return predictions(exact=True)


def assert_paired(got: list[Predictions], iou: float = 0.95) -> None:
    """99 % of the boxes above 0.5 have one of their class that overlaps as much, both ways."""
    paired = []
    for one, two in zip(got, exact(), strict=True):
        for some, others in ((one, two), (two, one)):
            sure = some[some.scores > 0.5]
            overlap = coco_mask.iou(xywh(sure.boxes), xywh(others.boxes), [0] * len(others))
            same = sure.classes[:, None] == others.classes
            paired += ((overlap >= iou) & same).any(axis=1).tolist()
    assert len(paired) >= 40
    assert np.mean(paired) >= 0.99


def xywh(boxes: np.ndarray) -> np.ndarray:
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).astype(np.float64)


@pytest.mark.parametrize("engine", ENGINES)
def test_bf16(engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    assert_paired(predictions(engine=engine, precision="bf16"))


def test_resize_on_the_device() -> None:
    assert_paired(predictions(engine="torch", resize_on_device=True), iou=0.9)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_compile() -> None:
    got = predictions(engine="compile")
    for one, two in zip(got, exact(), strict=True):
        np.testing.assert_allclose(one.boxes, two.boxes, atol=0.05)
        np.testing.assert_allclose(one.scores, two.scores, atol=1e-3)


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("engine", "precision", "on_device"), NIGHTLY)
def test_average_precision(engine: str, precision: str, on_device: bool) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    want = evaluated("runnable=exact")
    got = evaluated(
        f"runnable.engine={engine}",
        f"runnable.precision={precision}",
        f"runnable.resize_on_device={on_device}",
    )
    for name in ("box_ap", "mask_ap"):
        assert got[name] >= want[name] - 0.2


@cache
def evaluated(*overrides: str) -> dict[str, float]:
    command = [sys.executable, str(SHAPES / "evaluate.py"), "--scenes", "100", "device=cpu"]
    done = subprocess.run([*command, *overrides], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])
