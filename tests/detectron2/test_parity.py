"""The runnable against DefaultPredictor: seeded random weights, real photos, low thresholds.

What is covered: seven architectures, every output kind, one frame at once and four, which frames
share a forward, an RGB model, a frame without instances.
"""

from __future__ import annotations

from typing import Any

import pytest
from random_model import (
    ARCHITECTURES,
    PHOTOS,
    RandomModel,
    assert_equal,
    assert_near,
    photo,
    reference,
)

from pipeline.runnables.detectron2 import Detectron2
from pipeline.types import Frame

pytestmark = pytest.mark.detectron2


@pytest.fixture(scope="module", params=ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def model(request: pytest.FixtureRequest) -> RandomModel:
    return RandomModel(request.param)


def test_one_frame_a_forward(model: RandomModel) -> None:
    images = [photo(name) for name in PHOTOS]
    with Detectron2(model, "cpu") as runnable:
        got = [runnable.predict([Frame(image, "x")])[0] for image in images]
    found = 0
    for predictions, want in zip(got, reference(model, images), strict=True):
        assert_equal(predictions, want, box_px=1e-3)
        found += len(predictions) + len(predictions.segments)
    assert found > 60 or "semantic" in model.config


def test_four_frames_at_once(model: RandomModel) -> None:
    image = photo("coffee")
    images = [image, image[:, ::-1].copy(), image[::-1].copy(), image[::-1, ::-1].copy()]
    with Detectron2(model, "cpu") as runnable:
        got = runnable.predict([Frame(image, "x") for image in images])
    for predictions, want in zip(got, reference(model, images), strict=True):
        assert_equal(predictions, want, box_px=1e-3)


def test_four_frames_share_a_forward(model: RandomModel) -> None:
    image = photo("coffee")
    images = [image, image[:, ::-1].copy(), image[::-1].copy(), image[::-1, ::-1].copy()]
    with Detectron2(model, "cpu", exact=False) as runnable:
        got = runnable.predict([Frame(image, "x") for image in images])
    # three cascaded heads of random weights turn a last digit into another proposal now and then
    share = 0.9 if "cascade" in model.config else 1.0
    for predictions, want in zip(got, reference(model, images), strict=True):
        assert_near(predictions, want, share)


def test_shapes_do_not_share_a_forward() -> None:
    model = RandomModel(ARCHITECTURES["mask_rcnn"])
    images = [photo("chelsea"), photo("astronaut"), photo("chelsea")[:, ::-1].copy()]
    shapes = []
    with Detectron2(model, "cpu", exact=False) as runnable:
        forward = runnable._forward
        runnable._forward = lambda inputs: (  # type: ignore[method-assign]
            shapes.append([tuple(item["image"].shape) for item in inputs]) or forward(inputs)
        )
        got = runnable.predict([Frame(image, "x") for image in images])
    assert sorted(len(shape) for shape in shapes) == [1, 2]
    assert_equal(got[1], reference(model, images[1:2])[0], box_px=1e-3)
    assert [len(predictions) > 0 for predictions in got] == [True] * 3


@pytest.mark.parametrize(
    "opts",
    [
        pytest.param(("INPUT.FORMAT", "RGB"), id="rgb"),
        pytest.param(("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.99), id="nothing found"),
    ],
)
def test_options(opts: tuple[Any, ...]) -> None:
    model = RandomModel(ARCHITECTURES["mask_rcnn"], opts)
    image = photo("coffee")
    with Detectron2(model, "cpu") as runnable:
        got = runnable.predict([Frame(image, "x")])[0]
    assert_equal(got, reference(model, [image])[0], box_px=1e-3)


def test_a_panoptic_map_with_equal_scores() -> None:
    model = RandomModel(ARCHITECTURES["panoptic_fpn"], spread=5000)
    image = photo("coffee")
    with Detectron2(model, "cpu") as runnable:
        got = runnable.predict([Frame(image, "x")])[0]
    assert len(set(got.scores.tolist())) < len(got) - 10
    assert len([segment for segment in got.segments if segment.is_thing]) > 1
    assert_equal(got, reference(model, [image])[0], box_px=1e-3)
