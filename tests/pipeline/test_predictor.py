"""The Python front door, with the bundled model where it matters, else with a fake one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest
from batches import lines, run
from omegaconf import OmegaConf

import pipeline
from pipeline import Model, Predictions, Predictor, Result, TopK, find_model
from pipeline.errors import (
    ConfigError,
    DecodeError,
    DeviceError,
    InferenceError,
    StageError,
)
from pipeline.model_names import option_names
from pipeline.store import ModelStore
from pipeline.testing import FakeRunnable

ROOT = Path(__file__).resolve().parents[2]
SCENES = sorted((ROOT / "examples" / "shapes" / "scenes").glob("*.jpg"))


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2RUN_HOME", str(tmp_path / "home"))


@pytest.fixture
def fake() -> Iterator[Predictor]:
    """A predictor that finds three instances in anything."""
    with _fake() as predictor:
        yield predictor


def _fake(stages: object = ()) -> Predictor:
    predictor = Predictor("shapes", stages=stages)  # type: ignore[arg-type]
    predictor.runnable = FakeRunnable(predictor.model, "cpu")
    return predictor


def black(i: int = 0) -> np.ndarray:
    return np.full((20 + i, 30, 3), i, np.uint8)


@pytest.mark.detectron2
def test_results_are_those_of_a_run(tmp_path: Path) -> None:
    out, photos = tmp_path / "out", tmp_path / "photos"
    photos.mkdir()
    for scene in SCENES[:2]:
        shutil.copy(scene, photos)
    run(
        "model=shapes", "runnable=detectron2", "runnable.forwards=1", "device=cpu", "sink=[]",
        f"input={photos}", f"output={out}",
    )  # fmt: skip
    records = lines(out / "predictions.jsonl")
    paths = [photos / record["asset"] for record in records]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Predictor("shapes", device="cpu") as predictor:
            listed = predictor(paths)
            streamed = list(predictor(cv2.imread(str(path)) for path in paths))
            first = predictor(paths[0])
            drawn = predictor.draw(paths[0], first)
    assert predictor.class_names == ("circle", "square", "triangle")
    for predictions in (listed, streamed, [first]):
        for record, one in zip(records, predictions, strict=False):
            _check_same(one, record["instances"])
    assert len(listed) == len(streamed) == len(records) == 2
    image = cv2.imread(str(paths[0])).repeat(2, 0).repeat(2, 1)  # small images are enlarged
    assert drawn.dtype == np.uint8
    assert drawn.shape == image.shape
    assert (drawn != image).any()


def _check_same(predictions: Predictions, instances: list[dict[str, object]]) -> None:
    assert len(predictions) == len(instances) > 0
    assert predictions.masks is not None
    for i, (instance, mask) in enumerate(zip(instances, predictions.masks.rle(), strict=True)):
        assert np.float32(instance["score"]) == predictions.scores[i]
        assert np.float32(instance["box"]).tolist() == predictions.boxes[i].tolist()
        assert instance["class_name"] == predictions.class_names[predictions.classes[i]]
        assert instance["mask"] == mask


def test_a_list_in_order(fake: Predictor) -> None:
    sizes = [one.image_size for one in fake([black(i) for i in range(20)])]
    assert sizes == [(20 + i, 30) for i in range(20)]
    assert fake([]) == []


def test_an_endless_iterator(fake: Predictor) -> None:
    drawn = []

    def images() -> Iterator[np.ndarray]:
        for i in count():
            drawn.append(i)
            yield black(i)

    predictions = fake(images())
    assert isinstance(predictions, Iterator)
    assert not drawn  # nothing is read before the first result is needed
    for i in range(5):
        assert next(predictions).image_size == (20 + i, 30)
    predictions.close()
    assert len(drawn) < 40
    read = len(drawn)
    assert fake(black()).image_size == (20, 30)
    assert len(drawn) == read


def test_an_error_of_the_iterator(fake: Predictor) -> None:
    def images() -> Iterator[np.ndarray]:
        yield black()
        raise KeyError("camera")

    predictions = fake(images())
    assert next(predictions).image_size == (20, 30)
    with pytest.raises(KeyError, match="camera"):
        next(predictions)


def test_paths(fake: Predictor, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), black(1))
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert fake(path).image_size == (21, 30)
        assert [one.image_size for one in fake([path, black()])] == [(21, 30), (20, 30)]


def test_a_path_that_is_no_image(fake: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DecodeError, match=r"a\.png: not an image that d2run reads"):
        fake(tmp_path / "a.png")
    with pytest.raises(DecodeError, match=r"gone\.png: no such file") as caught:
        fake([black(), tmp_path / "gone.png", black()])
    assert caught.value.asset_id == str(tmp_path / "gone.png")
    assert caught.value.step == "decode"


def test_return_exceptions(fake: Predictor) -> None:
    first, error, last = fake([black(1), "gone.png", black(2)], return_exceptions=True)
    assert (first.image_size, last.image_size) == ((21, 30), (22, 30))
    assert isinstance(error, DecodeError)
    assert str(error) == "gone.png: no such file"
    assert isinstance(fake("gone.png", return_exceptions=True), DecodeError)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        pytest.param(None, TypeError, "got NoneType; cv2.imread returns None", id="None"),
        pytest.param(b"a.jpg", TypeError, "image 0: .* or a path, got bytes", id="bytes"),
        pytest.param(7, TypeError, "got int", id="number"),
        pytest.param(
            black()[..., 0], ValueError, r"expected non-empty uint8 \(H, W, 3\)", id="gray"
        ),
        pytest.param(black() / 2, ValueError, "got float64", id="float"),
        pytest.param(np.stack([black()] * 2), ValueError, r"\(2, 20, 30, 3\)", id="stack"),
    ],
)
def test_what_is_no_image(fake: Predictor, image: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        fake(image)
    with pytest.raises(error, match=message.replace("image 0", "image 1")):
        fake([black(), image])


def test_stages_run_in_order() -> None:
    seen = []

    def drop_odd(result: Result) -> Result | None:
        seen.append(len(result.predictions))
        return None if result.frame.size[0] % 2 else result

    with _fake([TopK(1), drop_odd]) as predictor:
        found = predictor([black(i) for i in range(4)])
        assert [one is None for one in found] == [False, True, False, True]
        assert predictor(black(1)) is None
    assert seen == [1] * 5


def test_a_stage_that_raises() -> None:
    def fails(result: Result) -> Result:
        raise RuntimeError("broken")

    error = pytest.raises(StageError, match="image 0: RuntimeError: broken")
    with _fake([fails]) as predictor, error as caught:
        predictor(black())
    assert caught.value.step == "fails"


def test_two_stages_of_a_class() -> None:
    predictor = _fake([TopK(2), TopK(1), TopK(3)])
    with predictor:
        assert len(predictor(black())) == 1
    assert list(predictor._stages) == ["TopK", "TopK 2", "TopK 3"]


def test_a_model_that_fails(fake: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(frames: object) -> list[Predictions]:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(fake.runnable, "predict", predict)
    with pytest.raises(InferenceError, match="image 0: RuntimeError: no kernel"):
        fake(black())


def test_not_entered() -> None:
    predictor = _fake()
    with pytest.raises(RuntimeError, match="use `with Predictor"):
        predictor([black()])
    with predictor:
        pass
    with pytest.raises(RuntimeError, match="use `with Predictor"):
        predictor(black())


@pytest.mark.detectron2
def test_warnings_of_the_model(tiny_opts: list[object]) -> None:
    model = find_model("faster_rcnn", weights="random", opts=tiny_opts)
    with pytest.warns(UserWarning, match="has random weights"), Predictor(model, "cpu"):
        pass


def test_options_reach_the_runnable() -> None:
    predictor = Predictor("shapes", "cpu", batch_size=4, exact=True)
    assert predictor.runnable.batch_size == 4
    assert predictor.runnable.exact
    assert predictor.runnable.device == "cpu"


def test_the_default_stage_is_that_of_the_command_line() -> None:
    config = OmegaConf.load(ROOT / "conf" / "config.yaml")
    assert {"stage": ["min_score"]} in OmegaConf.to_container(config)["defaults"]
    default = OmegaConf.load(ROOT / "conf" / "stage" / "min_score.yaml").min_score
    (stage,) = Predictor("shapes")._stages.values()
    assert stage.threshold == default.threshold


def test_limits_of_leading_stages_reach_the_model() -> None:
    predictor = Predictor("shapes", stages=[pipeline.MinScore(0.3), TopK(5)])
    assert (predictor.runnable.min_score, predictor.runnable.max_instances) == (0.3, 5)
    predictor = Predictor("shapes", stages=[lambda result: result, TopK(5)], min_score=0.2)
    assert (predictor.runnable.min_score, predictor.runnable.max_instances) == (0.2, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"model": "shape"}, "model 'shape'; did you mean 'shapes'[?]", id="model"),
        pytest.param({"model": "mask_rcn"}, "did you mean 'mask_rcnn'", id="option"),
        pytest.param({"batchsize": 2}, "'batchsize'; did you mean 'batch_size'", id="key"),
        pytest.param({"precision": "fp8"}, "precision", id="value"),
        pytest.param({"stages": [pipeline.KeepClasses(["dog"])]}, "names: .* 'dog'", id="stage"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_loaded(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Predictor(**{"model": "shapes", **arguments})


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(DeviceError, match="cuda:99"), Predictor("shapes", "cuda:99"):
        pass


@pytest.mark.parametrize("name", option_names())
def test_options_are_read_as_hydra_reads_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "check", lambda self: None)
    path = ROOT / "conf" / "model" / f"{name}.yaml"
    values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    store = ModelStore(tmp_path)
    assert vars(find_model(name, store=store)) == vars(Model(**values, store=store))


def test_the_model_of_a_finished_run_has_no_name(tmp_path: Path) -> None:
    assert (ROOT / "conf/model/recorded.yaml").is_file()
    with pytest.raises(ConfigError, match="no option or stored model 'recorded'"):
        find_model("recorded", store=ModelStore(tmp_path))


def test_options_of_a_model_can_be_changed() -> None:
    model = find_model("mask_rcnn", variant="R_101_FPN_3x", score_threshold=0.2)
    assert model.config == "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x"
    assert model.score_threshold == 0.2
    with pytest.raises(ConfigError, match="model 'mask_rcnn': no option 'varient'; did you mean"):
        find_model("mask_rcnn", varient="R_101_FPN_3x")


@pytest.mark.parametrize("tag", ["shapes:latest", "shapes:1"])
def test_stored_models(tag: str, tmp_path: Path) -> None:
    model = find_model(tag, store=ModelStore(tmp_path))
    assert model.categories.thing_names == ("circle", "square", "triangle")
    assert Predictor(model).class_names == model.categories.thing_names


def test_a_stored_model_can_be_misspelled(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no option or stored model 'shapes:9'"):
        find_model("shapes:9", store=ModelStore(tmp_path))


CHECK = """
import json, sys
import pipeline
heavy = {"torch", "detectron2", "hydra"}
early = sorted(sys.modules.keys() & (heavy | {"cv2", "PIL"}))
for name in pipeline.__all__:
    getattr(pipeline, name)
assert set(pipeline.__all__) <= set(dir(pipeline))
pipeline.Predictor("shapes", stages=[pipeline.MinScore(0.5)])
print(json.dumps([early, sorted(sys.modules.keys() & heavy)]))
"""


def test_importing_does_not_import_torch(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert json.loads(done.stdout) == [[], []]


def test_names_that_the_package_does_not_have() -> None:
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'Predicter'"):
        pipeline.Predicter  # noqa: B018
