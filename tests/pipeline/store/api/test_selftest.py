import io

import numpy as np
import pytest
import torch
from tiny_model import CLASS_NAMES, tiny_cfg, tiny_predictor

from pipeline.errors import ModelCorruptError, StoreError
from pipeline.models.architectures import build
from pipeline.records import Categories
from pipeline.store import ModelStore, save_model
from pipeline.store.api import checks, selftest

pytestmark = pytest.mark.detectron2

FAMILIES = {
    "mask": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x", {"boxes", "masks"}),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_3x", {"boxes"}),
    "panoptic": (
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x",
        {"boxes", "masks", "sem_seg", "panoptic_seg"},
    ),
    "semantic": ("Misc/semantic_R_50_FPN_1x", {"sem_seg"}),
}


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "root")


@pytest.fixture(scope="module")
def predictor():
    return tiny_predictor(MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.99)  # finds nothing by itself


@pytest.fixture
def saved(store, predictor):
    return save_model("crack", predictor, class_names=CLASS_NAMES, store=store)


def runnable(cfg, module):
    names = [f"thing_{i}" for i in range(80)], [f"stuff_{i}" for i in range(54)]
    categories = Categories(thing_names=tuple(names[0]), stuff_names=tuple(names[1]))
    return selftest.open_runnable("tiny", cfg, module, categories)


def test_what_was_recorded_by_the_module_itself_still_compares(saved, predictor):
    """Stores of earlier versions have self-tests that were made without our post-processing."""
    cfg = selftest.lenient_cfg(predictor.cfg)
    module = build(cfg, seed=0).eval()
    module.load_state_dict(predictor.model.state_dict())
    with np.load(saved.path / "selftest.npz") as stored:
        image = stored["image"]
        size = {"height": image.shape[0], "width": image.shape[1]}
        tensor = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))
        with torch.inference_mode():
            (output,) = module([{"image": tensor, **size}])
        found = output["instances"][: len(stored["boxes"])]
        np.testing.assert_array_equal(stored["boxes"], found.pred_boxes.tensor.numpy())
        np.testing.assert_array_equal(stored["scores"], found.scores.numpy())
        np.testing.assert_array_equal(stored["masks"], found.pred_masks.numpy())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_recorded(family, tmp_path):
    base, expected = FAMILIES[family]
    cfg = selftest.lenient_cfg(tiny_cfg(base))
    path = tmp_path / "selftest.npz"
    with runnable(cfg, build(cfg, seed=1).eval()) as loaded:
        data = selftest.record(loaded)
        assert data == selftest.record(loaded)  # the same bytes
        path.write_bytes(data)
        found = selftest.repeat(loaded, path)
    with np.load(path) as arrays:
        assert expected <= set(arrays)
        if "boxes" in expected:
            assert 0 < len(arrays["boxes"]) <= 20
    assert found == selftest.Comparison((), True)


def test_a_changed_model_is_seen(saved, predictor):
    path = saved.path / "selftest.npz"
    cfg = selftest.lenient_cfg(predictor.cfg)
    module = build(cfg, seed=0).eval()
    module.load_state_dict(predictor.model.state_dict())
    with runnable(cfg, module) as loaded:
        assert selftest.repeat(loaded, path).identical
        with torch.no_grad():
            module.roi_heads.box_predictor.bbox_pred.weight.mul_(1.5)
        found = selftest.repeat(loaded, path)
    assert not found.identical
    assert "gone or moved" in found.problems[0]


def outputs(**more):
    base = {
        "boxes": np.array([[0, 0, 10, 10], [20, 20, 40, 40]], np.float32),
        "scores": np.array([0.9, 0.8], np.float32),
        "classes": np.array([0, 1]),
        "masks": np.zeros((2, 50, 50), bool),
    }
    return base | more


@pytest.mark.parametrize(
    ("now", "passes", "identical"),
    [
        pytest.param(outputs(), True, True, id="same"),
        pytest.param({k: v[::-1] for k, v in outputs().items()}, True, False, id="order"),
        pytest.param(outputs(boxes=outputs()["boxes"] + np.float32(0.01)), True, False, id="near"),
        pytest.param(outputs(boxes=outputs()["boxes"] + 1), False, False, id="moved"),
        pytest.param(outputs(scores=outputs()["scores"] - 0.01), False, False, id="score"),
        pytest.param(outputs(classes=np.array([0, 2])), False, False, id="class"),
        pytest.param(outputs(masks=np.ones((2, 50, 50), bool)), False, False, id="masks"),
        pytest.param({k: v[:1] for k, v in outputs().items()}, False, False, id="one less"),
        pytest.param({k: v[:0] for k, v in outputs().items()}, False, False, id="none"),
        pytest.param({"boxes": outputs()["boxes"]}, False, False, id="no scores"),
    ],
)
def test_compare(now, passes, identical):
    found = selftest.compare(outputs(), now)
    assert (found.problems == ()) is passes
    assert found.identical is identical


def test_maps():
    a = {"sem_seg": np.zeros((100, 100), np.int16)}
    b = {"sem_seg": a["sem_seg"].copy()}
    b["sem_seg"][0, :5] = 1
    assert selftest.compare(a, b).problems == ()
    b["sem_seg"][:2] = 1
    assert "of sem_seg differ" in selftest.compare(a, b).problems[0]
    assert selftest.compare(a, {"sem_seg": np.zeros((9, 9))}).problems


@pytest.mark.parametrize("data", [b"", b"PK", b"x" * 100, "pickle", "no picture"])
def test_what_is_no_selftest(data, tmp_path):
    path = tmp_path / "selftest.npz"
    if isinstance(data, str):
        buffer = io.BytesIO()
        value = np.array([{}], object) if data == "pickle" else np.zeros(3)
        np.savez(buffer, image=value)
        data = buffer.getvalue()
    path.write_bytes(data)
    with pytest.raises(ModelCorruptError, match="no self-test"):
        selftest.repeat(None, path)


def test_a_model_that_cannot_take_its_size_is_stored_without(store, predictor, monkeypatch):
    said = []

    def fail(*_):
        raise AssertionError("too small")

    monkeypatch.setattr(selftest, "_outputs", fail)
    monkeypatch.setattr(selftest._log, "warning", lambda text, *args: said.append(text % args))
    saved = save_model("crack", predictor, class_names=CLASS_NAMES, store=store)
    assert "without a self-test" in said[0]
    assert "too small" in said[0]
    assert "selftest" not in saved.info
    assert checks.verify_model(store.root, saved).endswith("it has no self-test, but runs")


def test_verified(store, saved, monkeypatch):
    repeats = []
    original = checks.repeat_selftest
    monkeypatch.setattr(checks, "repeat_selftest", lambda *a: repeats.append(a) or original(*a))
    assert "recorded in this very environment" in checks.verify_model(store.root, saved)
    assert not repeats
    assert "identical to the bit" in checks.verify_model(store.root, saved, force=True)
    assert "identical to the bit" in checks.verify_model(store.root, saved, device="cpu")
    assert len(repeats) == 2
    here = selftest.environment()
    monkeypatch.setattr(selftest, "environment", lambda: here | {"torch": "9.9"})
    assert "self-test passed on" in checks.verify_model(store.root, saved)
    assert len(repeats) == 3
    assert "passed in this environment before" in checks.verify_model(store.root, saved)
    assert len(repeats) == 3


def test_other_results_are_an_error_that_says_what_changed(store, saved, monkeypatch):
    here = selftest.environment()
    monkeypatch.setattr(selftest, "environment", lambda: here | {"torch": "9.9"})
    original = selftest._outputs

    def drifted(loaded, image):
        found = original(loaded, image)
        return found | {"scores": found["scores"] * 0.9}

    monkeypatch.setattr(selftest, "_outputs", drifted)
    for _ in range(2):  # it is not remembered as passed
        with pytest.raises(StoreError, match=r"something else on cpu.*torch .* -> 9\.9"):
            checks.verify_model(store.root, saved)
