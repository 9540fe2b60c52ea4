import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.errors import ConfigError, ModelCorruptError, ModelNotFoundError, UntrustedModelError
from pipeline.models.download import local_path
from pipeline.models.zoo import zoo_url
from pipeline.protocols import Model as ModelProtocol
from pipeline.store import Model, ModelStore
from pipeline.store.disk import lookup

MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
RETINA = "COCO-Detection/retinanet_R_50_FPN_3x"
PANOPTIC = "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x"
SEMANTIC = "Misc/semantic_R_50_FPN_1x"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "BUNDLED", tmp_path / "bundled")
    return ModelStore(tmp_path / "root")


@pytest.fixture
def make(store, tiny_opts):
    def make(**given):
        base = {"config": MASK, "weights": "random", "class_names": ["a", "b"], "opts": tiny_opts}
        return Model(**{"name": "m", "store": store} | base | given)

    return make


def problems(model):
    with pytest.raises(ConfigError) as caught:
        model.check()
    return caught.value.problems


def test_protocol(make):
    assert isinstance(make(), ModelProtocol)


def test_import_and_check_without_torch(tmp_path):
    code = f"""
import sys
from pipeline.store import Model, ModelStore
model = Model("m", config={MASK!r}, weights="zoo", categories="coco",
              store=ModelStore({str(tmp_path)!r}))
model.check(); model.identity(); model.categories
assert not {{"torch", "detectron2", "hydra", "rich"}} & set(sys.modules), "too heavy"
"""
    root = Path(lookup.__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(
            {"config": None, "weights": None, "class_names": None},
            "model.config, model.weights, model.class_names are required.*or model.tag",
            id="nothing",
        ),
        pytest.param({"weights": None}, "model.weights is required", id="no-weights"),
        pytest.param({"config": MASK[:-1]}, "did you mean", id="config"),
        pytest.param({"weights": "no.pth"}, "'no.pth' is not a file", id="no-file"),
        pytest.param({"weights": "w.onnx"}, r"must end in \.safetensors", id="kind"),
        pytest.param({"weights": "http://h/w.zip?k=secret"}, r"'http://h/w.zip\?...' must", id="u"),
        pytest.param({"weights": "s3://h/w.pkl"}, "not the http", id="scheme"),
        pytest.param(
            {"config": SEMANTIC, "weights": "zoo", "class_names": None, "categories": "coco_stuff"},
            "the model zoo has no weights for the config 'Misc/semantic_R_50_FPN_1x'",
            id="not-in-zoo",
        ),
        pytest.param({"weights": "zoo"}, "names for 2 classes, but .* is 80", id="zoo-classes"),
        pytest.param(
            {"config": "Cityscapes/mask_rcnn_R_50_FPN", "weights": "zoo"},
            "names for 2 classes, but MODEL.ROI_HEADS.NUM_CLASSES is 8",
            id="cityscapes",
        ),
        pytest.param(
            {"opts": ["MODEL.ROI_HEADS.NUM_CLASSES", 3]}, "names for 2 classes, but", id="opts"
        ),
        pytest.param({"class_names": "no.txt"}, "cannot read 'no.txt'", id="no-names"),
        pytest.param({"config": PANOPTIC}, "needs names of stuff classes", id="stuff"),
        pytest.param({"score_threshold": 1.5}, "score_threshold is 1.5", id="score"),
        pytest.param({"nms_threshold": -1}, "nms_threshold is -1", id="nms"),
        pytest.param({"opts": ["SEED"]}, "opts must be KEY, VALUE", id="odd-opts"),
        pytest.param({"opts": [1, 2]}, "opts must be KEY, VALUE", id="number-key"),
        pytest.param({"opts": ["MODEL.WEIGHTS", "x"]}, "set model.weights=", id="weights-opt"),
        pytest.param({"opts": ["MODEL.DEVICE", "cpu"]}, "set device=", id="device-opt"),
        pytest.param({"tag": "x"}, "has its own config, weights, class_names", id="tag-and-own"),
    ],
)
def test_check(make, given, message):
    with pytest.raises(ConfigError, match=message):
        make(**given).check()


def test_check_lists_all(make):
    found = problems(make(config="nope", score_threshold=2, opts=["MODEL.DEVICE"]))
    assert len(found) == 3


def test_class_names_against_own_config(make, write_yaml):
    path = str(write_yaml("c.yaml", {"MODEL": {"ROI_HEADS": {"NUM_CLASSES": 3}}}))
    assert "NUM_CLASSES is 3" in problems(make(config=path))[0]
    make(config=path, class_names=["a", "b", "c"]).check()
    retina = {"MODEL": {"META_ARCHITECTURE": "RetinaNet", "ROI_HEADS": {"NUM_CLASSES": 3}}}
    make(config=str(write_yaml("r.yaml", retina))).check()  # the key that RetinaNet reads is open


@pytest.mark.parametrize(
    ("config", "first", "n"),
    [
        ("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", "aerosol_can", 1203),
        ("LVISv0.5-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_1x.yaml", "acorn", 1230),
        ("PascalVOC-Detection/faster_rcnn_R_50_C4", "aeroplane", 20),
        ("Cityscapes/mask_rcnn_R_50_FPN", "person", 8),
    ],
)
@pytest.mark.parametrize("table", [None, "coco"])
def test_a_zoo_config_has_the_names_of_its_data_set(make, config, first, n, table):
    model = make(config=config, class_names=None, categories=table, opts=[])
    model.check()
    assert (model.categories.thing_names[0], len(model.categories.thing_names)) == (first, n)


def test_keypoints_of_a_model_without_keypoints(make, tmp_path):
    path = tmp_path / "person_keypoints.json"
    row = {"id": 1, "name": "p", "keypoints": ["x", "y"]}
    path.write_text(json.dumps({"categories": [row]}))
    make(class_names=str(path)).check()
    config = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x"
    found = problems(make(config=config, class_names=str(path)))
    assert "names for 2 keypoints, but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is 17" in found[0]


def test_check_of_a_tag(make, store):
    own = {"config": None, "weights": None, "class_names": None}
    with pytest.raises(ModelNotFoundError):
        make(**own, tag="none").check()


def test_unsafe_config(make, write_yaml):
    path = write_yaml("c.yaml", "MODEL: !!python/object/apply:os.getpid []")
    with pytest.raises(UntrustedModelError):
        make(config=str(path)).check()


def test_names_of_a_semantic_model_are_stuff(make):
    assert make(config=SEMANTIC).categories.stuff_names == ("a", "b")


def test_identity(make, tmp_path):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"1")
    base = make(weights=str(weights)).identity()
    assert base["weights"] == "file"
    assert str(tmp_path) not in str(base)
    others = [{"score_threshold": 0.5}, {"opts": []}, {"class_names": ["a", "c"]}]
    for other in (*others, {"config": RETINA}, {"weights": "random"}):
        assert make(**{"weights": str(weights)} | other).identity() != base
    assert make(weights=str(weights)).identity() == base
    assert make(weights=str(weights), seed=5).identity() == base
    weights.write_bytes(b"22")
    assert make(weights=str(weights)).identity() != base
    assert make().identity() != make(seed=5).identity()


def test_identity_of_zoo_weights(make, store):
    model = make(weights="zoo", class_names=None, categories="coco", opts=[])
    assert (model.identity()["weights"], model.identity()["weights_sha256"]) == ("zoo", None)
    path = local_path(zoo_url(MASK), store.downloads)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert model.fetch() == path
    assert len(model.identity()["weights_sha256"]) == 64


def test_mirror(make, store):
    store.zoo_url = "http://mirror:81/zoo"
    model = make(weights="zoo", class_names=None, categories="coco", opts=[])
    assert (store.downloads / "mirror_81" / "zoo") in model._origin.path.parents


def test_secrets_of_addresses_stay_out(make):
    shown = str(make(weights="https://me:secret@h/w.pth?key=hidden").identity())
    assert "secret" not in shown
    assert "hidden" not in shown


@pytest.mark.detectron2
def test_random_weights(make):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    (cfg, a), (_, b) = make(seed=7).load("cpu"), make(seed=7).load("cpu")
    assert torch.equal(torch.get_rng_state(), before)
    states = a.state_dict(), b.state_dict(), make(seed=8).load("cpu")[1].state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())
    assert not a.training
    assert (cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS) == ("cpu", "")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert "random weights (seed 7): its results mean nothing" in make(seed=7).warnings[0]


@pytest.mark.detectron2
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_weights_from_a_file(make, tmp_path, suffix):
    _, module = make(seed=1).load("cpu")
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(module.state_dict(), path)
    elif suffix == ".pth":
        torch.save({"model": module.state_dict(), "iteration": 1}, path)
    else:
        import pickle

        arrays = {name: value.numpy() for name, value in module.state_dict().items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    model = make(weights=str(path), seed=99)
    _, loaded = model.load("cpu")
    assert model.warnings == []
    for name, value in module.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


@pytest.mark.detectron2
def test_weights_of_other_classes(make, tmp_path):
    _, module = make().load("cpu")
    path = tmp_path / "w.pth"
    torch.save(module.state_dict(), path)
    with pytest.raises(ModelCorruptError) as caught:
        make(weights=str(path), class_names=list("abcde")).load("cpu")
    text = str(caught.value)
    assert "roi_heads.box_predictor.cls_score.weight is (3, 16) in the file, (6, 16)" in text
    assert "they know 2 classes, the model has 5: set model.class_names to those 2" in text
    assert len(text) < 400
    assert str(tmp_path) not in text


@pytest.mark.detectron2
@pytest.mark.parametrize(
    ("config", "node"), [(MASK, "ROI_HEADS"), (PANOPTIC, "ROI_HEADS"), (RETINA, "RETINANET")]
)
def test_thresholds(make, config, node):
    names = {"class_names": None, "categories": "coco_panoptic" if config == PANOPTIC else "coco"}
    given = {"score_threshold": 0.25, "nms_threshold": 1, "opts": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cfg = make(config=config, **names, **given)._cfg()
    assert cfg.MODEL[node].SCORE_THRESH_TEST == 0.25
    assert cfg.MODEL[node].NMS_THRESH_TEST == 1.0
    assert cfg.MODEL.RPN.NMS_THRESH == 0.7
    assert cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH == 0.5


@pytest.mark.detectron2
@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"config": SEMANTIC, "score_threshold": 0.5}, "no instances", id="threshold"),
        pytest.param({"opts": ["MODEL.MASK_ONN", True]}, "opts: .*did you mean", id="key"),
        pytest.param({"opts": ["MODEL.MASK_ON", "x"]}, "opts: 'MODEL.MASK_ON' takes", id="value"),
        pytest.param({"opts": ["MODEL.META_ARCHITECTURE", "X"]}, "cannot build", id="registry"),
        pytest.param({"opts": ["MODEL.RESNETS.DEPTH", 19]}, "cannot build", id="depth"),
    ],
)
def test_config_errors_of_load(make, given, message):
    with pytest.raises(ConfigError, match=message):
        make(**given).load("cpu")


@pytest.mark.detectron2
def test_opts_have_the_last_word(make, tiny_opts):
    key = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"
    cfg, _ = make(score_threshold=0.5, opts=[*tiny_opts, key, 0.75]).load("cpu")
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.75


@pytest.mark.detectron2
def test_save_and_load(make, store):
    model = make(name="crack", labels={"a": "b"}, metadata={"n": 1}, score_threshold=0.3)
    cfg, module = model.load("cpu")
    saved = model.save()
    own = {"config": None, "weights": None, "class_names": None, "opts": []}
    stored = make(name="stored", tag="crack", nms_threshold=0.9, **own)
    stored.check()
    again, loaded = stored.load("cpu")
    assert all(
        torch.equal(value, loaded.state_dict()[name]) for name, value in module.state_dict().items()
    )
    assert stored.categories == model.categories
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.9
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    identity = stored.identity()
    assert (identity["tag"], identity["weights"]) == (saved.tag, "store")
    assert identity["weights_sha256"] == saved.info["files"]["weights.safetensors"]["sha256"]
    assert (saved.info["labels"], saved.info["metadata"]) == ({"a": "b"}, {"n": 1})
    (saved.path / "config.yaml").write_text("{}")
    with pytest.raises(ModelCorruptError, match=r"config\.yaml"):
        make(name="stored", tag="crack", **own).load("cpu")
