"""``exact`` against DefaultPredictor: seeded random weights, real photos, low thresholds.

Covers all architectures, every kind of output, one and four frames per batch, an RGB model, and a
frame without instances.
"""

from __future__ import annotations

from typing import Any

import pytest
from random_model import ARCHITECTURES, PHOTOS, RandomModel, assert_equal, photo, reference

from pipeline.records import Frame
from pipeline.runnables.detectron2 import Detectron2

pytestmark = pytest.mark.detectron2


def test_frames_of_two_shapes_at_once(model: RandomModel, expected: list[dict[str, Any]]) -> None:
    images = [photo(name) for name in PHOTOS]
    with Detectron2(model, "cpu", exact=True) as runnable:
        got = runnable.predict([Frame(image, "x") for image in images])
    found = 0
    for predictions, want in zip(got, expected, strict=True):
        assert_equal(predictions, want, box_px=1e-3)
        found += len(predictions) + len(predictions.segments)
    assert found > 15 or "semantic" in model.config


def test_four_frames_of_a_shape_at_once() -> None:
    model = RandomModel(ARCHITECTURES["faster_rcnn"])
    image = photo("coffee")
    images = [image, image[:, ::-1].copy(), image[::-1].copy(), image[::-1, ::-1].copy()]
    with Detectron2(model, "cpu", exact=True) as runnable:
        got = runnable.predict([Frame(image, "x") for image in images])
    for predictions, want in zip(got, reference(model, images), strict=True):
        assert_equal(predictions, want, box_px=1e-3)


@pytest.mark.parametrize(
    "opts",
    [
        pytest.param(("INPUT.FORMAT", "RGB"), id="rgb"),
        pytest.param(("INPUT.MIN_SIZE_TEST", 0), id="not resized"),
        pytest.param(("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0), id="nothing found"),
    ],
)
def test_options(opts: tuple[Any, ...]) -> None:
    model = RandomModel(ARCHITECTURES["mask_rcnn"], opts)
    image = photo("coffee")[:160, :240]
    with Detectron2(model, "cpu", exact=True) as runnable:
        got = runnable.predict([Frame(image, "x")])[0]
    assert_equal(got, reference(model, [image])[0], box_px=1e-3)


def test_a_panoptic_map_with_equal_scores() -> None:
    model = RandomModel(ARCHITECTURES["panoptic_fpn"], spread=5000)
    image = photo("coffee")
    with Detectron2(model, "cpu", exact=True) as runnable:
        got = runnable.predict([Frame(image, "x")])[0]
    assert len(set(got.scores.tolist())) < len(got) - 10
    assert len([segment for segment in got.segments if segment.is_thing]) > 1
    assert_equal(got, reference(model, [image])[0], box_px=1e-3)
