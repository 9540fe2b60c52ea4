from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pipeline.errors import ConfigError
from pipeline.protocols import DescribedRunnable, Runnable
from pipeline.records import Categories, Frame
from pipeline.runnables.fake import FakeRunnable
from pipeline.testing import make_frame

ROOT = Path(__file__).parents[3]


class Shapes:
    """A model that must not be loaded."""

    name = "shapes"
    categories = Categories(thing_names=("circle", "square"))

    def identity(self):
        raise AssertionError

    def load(self, device):
        raise AssertionError


def predict(*frames, **arguments):
    with FakeRunnable(**arguments) as runnable:
        return runnable.predict(frames)


def as_lists(p):
    masks = None if p.masks is None else p.masks.rle()
    return p.image_size, p.boxes.tolist(), p.scores.tolist(), p.classes.tolist(), masks


def test_is_a_runnable():
    assert isinstance(FakeRunnable(), Runnable)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 640), (480, 1), (2, 3), (48, 64), (1080, 1920)], ids=str
)
def test_instances_lie_in_the_frame(size):
    (p,) = predict(make_frame(*size), n_instances=20)
    height, width = p.image_size
    assert p.image_size == size
    assert len(p) == 20
    x1, y1, x2, y2 = p.boxes.T
    assert ((x1 >= 0) & (x1 < x2) & (x2 <= width)).all()
    assert ((y1 >= 0) & (y1 < y2) & (y2 <= height)).all()
    assert ((p.scores >= 0.5) & (p.scores <= 1)).all()
    assert (np.diff(p.scores) <= 0).all()
    for i, box in enumerate(p.boxes.tolist()):
        crop, (x, y) = p.masks.crop(i)
        assert [x, y, x + crop.shape[1], y + crop.shape[0]] == box  # the mask fills its box


def test_is_a_function_of_the_pixels():
    frame, other = make_frame(seed=1), make_frame(seed=2)
    same_pixels = Frame(frame.image.copy(), "elsewhere.png", index=7, time_s=3.0)
    alone = as_lists(predict(frame)[0])
    assert as_lists(predict(other, same_pixels, frame)[1]) == alone
    assert as_lists(predict(frame, n_instances=3, device="cuda:0")[0]) == alone
    assert as_lists(predict(other)[0]) != alone


def test_the_size_counts_not_only_the_bytes():
    flat = [Frame(np.zeros((*size, 3), np.uint8), "a") for size in ((40, 60), (60, 40))]
    first, second = (p.scores.tolist() for p in predict(*flat))
    assert first != second


def test_takes_frames_that_are_views():
    image = make_frame(20, 30).image
    turned = predict(Frame(image[:, ::-1], "a"))[0]
    copied = predict(Frame(image[:, ::-1].copy(), "a"))[0]
    assert as_lists(turned) == as_lists(copied)


@pytest.mark.parametrize(
    ("arguments", "class_names"),
    [
        pytest.param({}, ("object",), id="nothing known"),
        pytest.param({"model": Shapes()}, ("circle", "square"), id="the model's"),
        pytest.param({"class_names": ["a", "b"]}, ("a", "b"), id="given"),
        pytest.param({"model": Shapes(), "class_names": ["a"]}, ("a",), id="given before model's"),
    ],
)
def test_class_names(arguments, class_names):
    with FakeRunnable(**arguments) as runnable:
        first, second = runnable.predict([make_frame(), make_frame(seed=9)])
    assert runnable.class_names == class_names
    assert first.class_names is second.class_names is runnable.class_names


def test_says_that_no_model_ran():
    assert isinstance(FakeRunnable(), DescribedRunnable)
    said = FakeRunnable(device="cuda:0").describe()
    assert said["fake"]
    assert said["name"] == "no model (fake)"


def test_all_classes_occur():
    (p,) = predict(make_frame(), class_names=["a", "b", "c"], n_instances=100)
    assert set(p.classes.tolist()) == {0, 1, 2}


def test_without_masks_the_boxes_are_the_same():
    with_masks, without = predict(make_frame())[0], predict(make_frame(), masks=False)[0]
    assert without.masks is None
    assert without.boxes.tolist() == with_masks.boxes.tolist()


def test_no_instances():
    (p,) = predict(make_frame(), n_instances=0)
    assert len(p) == 0
    assert p.masks is not None


def test_no_frames():
    assert predict() == []


@pytest.mark.parametrize("ids", [["bad"], ["good", "bad"], ["bad", "good"]], ids="+".join)
def test_fail_on_fails_the_whole_batch(ids):
    frames = [make_frame(asset_id=asset_id) for asset_id in ids]
    with pytest.raises(RuntimeError, match="'bad' fails because it is in fail_on"):
        predict(*frames, fail_on=["bad", "worse"])


def test_fail_on_spares_the_others():
    assert len(predict(make_frame(asset_id="good"), fail_on=["bad"])) == 1


def test_must_be_entered():
    runnable = FakeRunnable()
    with pytest.raises(RuntimeError, match="not entered"):
        runnable.predict([make_frame()])
    with runnable as entered:
        assert entered is runnable
    with pytest.raises(RuntimeError, match="not entered"):
        runnable.predict([make_frame()])
    with runnable:  # may be entered again
        assert runnable.predict([]) == []


def test_refuses_a_negative_number():
    with pytest.raises(
        ConfigError, match="n_instances: expected a whole number of at least 0, got -1"
    ):
        FakeRunnable(n_instances=-1)


def test_option_builds_with_what_build_job_wires():
    path = ROOT / "conf/runnable/fake.yaml"
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# python run.py runnable=fake ")
    assert len(lines) < 15
    runnable = instantiate(OmegaConf.load(path), _convert_="all", model=Shapes(), device="auto")
    assert isinstance(runnable, FakeRunnable)
    assert runnable.class_names == ("circle", "square")
    assert runnable.device == "auto"


@pytest.mark.parametrize(
    ("asked", "n"),
    [
        ({}, 9),
        ({"max_instances": 4}, 4),
        ({"max_instances": 0}, 0),
        ({"min_score": 1.0}, 0),
        ({"max_instances": 20}, 9),
    ],
)
def test_finds_no_more_than_is_asked_for(asked, n):
    frame = make_frame()
    (everything,) = predict(frame, n_instances=9)
    (found,) = predict(frame, n_instances=9, **asked)
    assert as_lists(found) == as_lists(everything[:n])


def test_classes_come_before_the_limit():
    frame = make_frame()
    (everything,) = predict(frame, n_instances=9, class_names=["a", "b", "c"])
    wanted = everything[everything.classes != 1]
    assert 2 < len(wanted) < 9
    asked = {"classes": ["c", "a"], "max_instances": 2}
    (found,) = predict(frame, n_instances=9, class_names=["a", "b", "c"], **asked)
    assert as_lists(found) == as_lists(wanted[:2])


def test_min_score_is_inclusive():
    frame = make_frame()
    (everything,) = predict(frame)
    (found,) = predict(frame, min_score=float(everything.scores[1]))
    assert as_lists(found) == as_lists(everything[:2])
