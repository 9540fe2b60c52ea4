import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from tiny_model import CLASS_NAMES, assert_same, picture, tiny_cfg, tiny_predictor

from pipeline import store as store_module
from pipeline.errors import (
    ConfigError,
    DeviceError,
    ModelCorruptError,
    ModelExistsError,
    ModelNotFoundError,
)
from pipeline.store import ModelStore, get, load_model, save_model

ROOT = Path(__file__).parents[4]
pytestmark = pytest.mark.detectron2


@pytest.fixture(scope="module")
def predictor():
    return tiny_predictor()


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "root")


def save(store, predictor, name="crack", **more):
    return save_model(name, predictor, **({"class_names": CLASS_NAMES} | more), store=store)


def test_predictor_is_loaded_with_the_weights_it_had_in_memory(store, predictor):
    saved = save(store, predictor)
    loaded = load_model(saved.tag, store=store)
    assert type(loaded) is DefaultPredictor
    for seed in range(3):
        image = picture(seed=seed)
        assert_same(loaded(image), predictor(image))


def test_loaded_predictor_has_all_attributes(store, predictor):
    loaded = load_model(save(store, predictor), store=store)
    theirs = DefaultPredictor(tiny_cfg(DATASETS__TEST=("coco_2017_val",)))
    assert set(vars(loaded)) == set(vars(theirs))
    assert loaded.metadata.thing_classes == CLASS_NAMES
    assert loaded.input_format == theirs.input_format
    assert vars(loaded.aug) == vars(theirs.aug)
    assert not loaded.model.training


def test_module_is_loaded_as_a_module(store, predictor):
    module = copy.deepcopy(predictor.model).train()
    saved = save(store, module, config=predictor.cfg)
    assert module.training  # as it was
    loaded = load_model(saved, store=store)
    assert isinstance(loaded, torch.nn.Module)
    assert not loaded.training
    inputs = [{"image": torch.from_numpy(picture().transpose(2, 0, 1).copy())}]
    with torch.no_grad():
        assert_same(loaded(inputs)[0], module.eval()(inputs)[0])


def test_arguments_of_the_caller_do_not_change(store, predictor):
    given = {
        "labels": {"team": "vision"},
        "metadata": {"a": [1, {"b": np.float32(0.5)}]},
        "custom_objects": {"scale": (1, 2)},
        "signatures": {"__call__": {"batchable": True}},
    }
    before = copy.deepcopy(given)
    cfg = predictor.cfg.dump()
    saved = save(store, predictor, **given)
    assert given == before
    assert predictor.cfg.dump() == cfg
    assert saved.info.labels == {"team": "vision"}
    assert saved.info.metadata == {"a": [1, {"b": 0.5}]}
    assert saved.info.signatures == {"__call__": {"batchable": True}}


def test_torch_state_does_not_change(store, predictor):
    def state():
        here = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
        return here, torch.get_rng_state().tolist()

    before = state()
    load_model(save(store, predictor), store=store)
    assert state() == before


def test_neither_address_nor_device_is_stored(store, predictor):
    saved = save(store, predictor)
    text = (saved.path / "config.yaml").read_text()
    assert "nowhere.invalid" not in text
    assert "DEVICE: cpu" in text
    assert "!!" not in text


def test_keys_of_a_custom_project(store):
    cfg = tiny_cfg()
    cfg.MODEL.MINE = type(cfg)({"DEPTH": 3, "NAMES": ("a", "b"), "SUB": type(cfg)()})
    cfg.EXTRA = 0.5
    saved = save(store, build_model(cfg), config=cfg)
    loaded = store_module.get(saved.tag, store=store)
    from pipeline.store.api.building import stored_cfg

    again = stored_cfg(loaded)
    assert again.EXTRA == 0.5
    assert again.MODEL.MINE.DEPTH == 3
    assert list(again.MODEL.MINE.NAMES) == ["a", "b"]


def test_class_names_of_the_catalog(store):
    MetadataCatalog.get("test_predictor_names").set(
        thing_classes=CLASS_NAMES, thing_dataset_id_to_contiguous_id={7: 0, 3: 1, 9: 2}
    )
    try:
        cfg = tiny_cfg(DATASETS__TRAIN=("test_predictor_names",))
        saved = save(store, build_model(cfg), config=cfg, class_names=None)
    finally:
        MetadataCatalog.pop("test_predictor_names")
    assert saved.categories.thing_names == tuple(CLASS_NAMES)
    assert saved.categories.thing_ids == (7, 3, 9)


def test_class_names_of_coco(store):
    cfg = tiny_cfg(MODEL__ROI_HEADS__NUM_CLASSES=80, DATASETS__TEST=("coco_2017_val",))
    saved = save(store, build_model(cfg), config=cfg, class_names=None)
    assert saved.categories.thing_names[:2] == ("person", "bicycle")
    assert saved.categories.thing_ids[-1] == 90


def test_no_class_names_at_all(store, predictor):
    with pytest.warns(UserWarning, match="without class names.*class_0"):
        saved = save(store, predictor, class_names=None)
    assert saved.categories.thing_names == ("class_0", "class_1", "class_2")


def test_config_of_a_predictor_is_ignored(store, predictor):
    with pytest.warns(UserWarning, match="config is ignored"):
        save(store, predictor, config=tiny_cfg())


@pytest.mark.parametrize(
    ("what", "more", "message"),
    [
        ("module", {}, "CfgNode .* got None"),
        ("module", {"config": {"MODEL": 1}}, "CfgNode .* got a dict"),
        ("predictor", {"name": "-crack"}, "stored model, .* got '-crack'"),
        ("predictor", {"name": "crack:latest"}, "expected a version, .* got 'latest'"),
        ("predictor", {"class_names": ["a"]}, "has 1 classes, but"),
        ("predictor", {"metadata": {"x": {"y": object()}}}, r"metadata.x.y: expected"),
        ("predictor", {"metadata": {"x": {1, 2}}}, r"metadata.x: expected .* got \{1, 2\}"),
        ("predictor", {"metadata": ["x"]}, r"metadata: expected a mapping .* got \['x'\]"),
        ("predictor", {"labels": {"a": ["b"]}}, "label 'a'"),
        ("predictor", {"labels": ["a"]}, r"labels: expected a mapping .* got \['a'\]"),
        ("predictor", {"signatures": {"predict": {}}}, "has no method 'predict'"),
        (
            "predictor",
            {"signatures": {"__call__": {"batch": True}}},
            "signature __call__: expected .* got {'batch': True}",
        ),
        ("predictor", {"signatures": {"__call__": None}}, "signature __call__: .* got None"),
        ("predictor", {"signatures": ["__call__"]}, "signatures: expected a mapping"),
        ("predictor", {"signatures": {}}, "signatures is empty"),
        ("predictor", {"custom_objects": {"x": (i for i in ())}}, "cannot be pickled"),
        ("predictor", {"custom_objects": ["x"]}, "custom_objects: expected a mapping"),
        ("predictor", {"external_modules": sys}, "external_modules: expected a list"),
        ("predictor", {"external_modules": ["numpy"]}, "expected modules"),
        ("predictor", {"external_modules": [sys]}, "is part of Python"),
    ],
)
def test_unsupported_values(store, predictor, what, more, message):
    given = predictor if what == "predictor" else predictor.model
    with pytest.raises(ConfigError, match=message):
        save(store, given, **({"name": "crack"} | more))
    assert store.tags() == []


@pytest.mark.parametrize("given", [None, {}, "model.pth", torch.nn.Linear])
def test_not_a_model(store, given):
    with pytest.raises(ConfigError, match="expected a DefaultPredictor"):
        save_model("crack", given, store=store)


def test_config_of_another_module(store, predictor):
    other = tiny_cfg(MODEL__FPN__OUT_CHANNELS=16)
    with pytest.raises(ModelCorruptError, match="do not fit"):
        save(store, predictor.model, config=other)
    assert store.tags() == []


def test_module_trained_on_several_devices(store, predictor):
    wrapped = torch.nn.Module()
    wrapped.module = predictor.model
    saved = save(store, wrapped, config=predictor.cfg, signatures={"train": {}})
    assert_same(
        load_model(saved, store=store)([{"image": torch.zeros(3, 64, 64)}])[0],
        predictor.model([{"image": torch.zeros(3, 64, 64)}])[0],
    )


def test_versions(store, predictor):
    first = save(store, predictor, "crack:v1")
    assert first.tag == "crack:v1"
    assert (first.tag.name, first.tag.version) == ("crack", "v1")
    with pytest.raises(ModelExistsError):
        save(store, predictor, "crack:v1")
    second = save(store, predictor)
    assert get("crack", store=store) == second
    assert [entry.tag for entry in store_module.list("crack", store=store)] == [
        first.tag,
        second.tag,
    ]
    assert store_module.delete("crack:v1", store=store) == ["crack:v1"]
    with pytest.raises(ModelNotFoundError):
        load_model("crack:v1", store=store)


def test_the_store_of_the_environment(tmp_path, monkeypatch, predictor):
    monkeypatch.setenv("D2RUN_HOME", str(tmp_path))
    saved = save_model("crack", predictor, class_names=CLASS_NAMES)
    assert saved.path.is_relative_to(tmp_path / "models")
    assert saved in store_module.list()
    assert_same(saved.load_model()(picture()), predictor(picture()))
    assert store_module.delete("crack") == [saved.tag]


def test_verify(store, predictor):
    saved = save(store, predictor)
    file = saved.path / "selftest.npz"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelCorruptError, match=r"selftest\.npz"):
        load_model(saved, store=store)
    assert_same(load_model(saved, verify=False, store=store)(picture()), predictor(picture()))


@pytest.mark.parametrize("device", ["cuda:99", "gpu", ""])
def test_devices(store, predictor, device):
    with pytest.raises(DeviceError, match="Available: cpu"):
        load_model(save(store, predictor), device, store=store)


def test_its_config_names_its_weights(store, predictor):
    loaded = load_model(save(store, predictor), store=store)
    assert_same(DefaultPredictor(loaded.cfg)(picture()), predictor(picture()))


def test_the_import_needs_no_torch_and_no_bentoml():
    heavy = {"torch", "detectron2", "bentoml"}
    code = f"import sys, pipeline.store; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
