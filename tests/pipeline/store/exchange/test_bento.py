import datetime
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
from copy import deepcopy
from importlib import metadata as packages
from pathlib import Path

import pytest
import torch
import yaml
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from pipeline.errors import ConfigError, ModelCorruptError, StoreError, UntrustedModelError
from pipeline.models.weights.weights import read_weights
from pipeline.store.exchange.bento_reading import is_bento, read_bento
from pipeline.store.exchange.bento_writing import write_bento

ROOT = Path(__file__).parents[4]
OPTS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 2,
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
}
LABELS = {"team": "vision", "year": "2026"}
METADATA = {"map": 0.5, "by": ["x", {"y": True}], "none": {}}
SIGNATURES = {
    "__call__": {"batchable": True, "batch_dim": 1},
    "forward": {"batchable": True, "batch_dim": (0, 1)},
    "inference": {"batchable": False},
}


class Double:
    def __call__(self, value):
        return 2 * value


def tiny_cfg():
    cfg = get_cfg()
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    cfg.merge_from_file(model_zoo.get_config_file(name))
    cfg.merge_from_list([item for pair in OPTS.items() for item in pair])
    return cfg


def save(folder):
    """Save models with BentoML, in a separate process."""
    import bentoml
    from detectron2.engine import DefaultPredictor

    predictor = DefaultPredictor(tiny_cfg())
    module = (predictor.model, predictor.cfg.clone())
    torch.save(predictor.model.state_dict(), folder / "module.pth")
    bentoml.detectron.save_model("module", *module, signatures=SIGNATURES)
    bentoml.detectron.save_model("plain", *module, custom_objects={"names": ("a", "ü")})
    bentoml.detectron.save_model("objects", *module, custom_objects={"double": Double()})

    with torch.no_grad():
        for parameter in predictor.model.parameters():
            parameter.add_(0.125)
    predictor.cfg.MODEL.WEIGHTS = "/nowhere/model_final.pkl"
    predictor.cfg.freeze()
    torch.save(predictor.model.state_dict(), folder / "predictor.pth")
    metadata = {**deepcopy(METADATA), 0: "crack", "on": datetime.date(2026, 1, 31)}
    bentoml.detectron.save_model("predictor:v1", predictor, labels=LABELS, metadata=metadata)


def load(folder):
    """Import, load and run a model with BentoML, in a separate process."""
    import bentoml

    bentoml.models.import_model(str(folder / "crack.bentomodel"))
    found = bentoml.models.get("crack:latest")
    module = bentoml.detectron.load_model(found)
    signatures = found.info.signatures.items()
    said = {
        "tag": str(found.tag),
        "created": found.info.creation_time.isoformat(),
        "labels": found.info.labels,
        "metadata": found.info.metadata,
        "signatures": {name: (one.batchable, one.batch_dim) for name, one in signatures},
        "doubled": found.custom_objects["double"](21),
        "outputs": outputs(module, torch.load(folder / "image.pt")),
    }
    torch.save(said, folder / "said.pt")


def outputs(module, image):
    with torch.no_grad():
        instances = module([{"image": image}])[0]["instances"]
    return instances.get_fields() | {"pred_boxes": instances.pred_boxes.tensor}


if __name__ == "__main__":
    {"save": save, "load": load}[sys.argv[1]](Path(sys.argv[2]))


def with_bentoml(task, folder):
    if not importlib.util.find_spec("bentoml"):
        pytest.skip("BentoML is not installed; it belongs to the dependency group dev")
    env = os.environ | {
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder / "packages")]),
    }
    try:
        packages.version("detectron2")
    except packages.PackageNotFoundError:  # it can still be imported; BentoML requires both
        info = folder / "packages" / "detectron2-0.6.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.6\n")
    command = [sys.executable, __file__, task, str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The directories of models that BentoML saved, and their weights."""
    folder = tmp_path_factory.mktemp("saved")
    with_bentoml("save", folder)
    models = [path.parent for path in folder.glob("home/models/*/*/model.yaml")]
    found = {path.parent.name: path for path in models}
    return found | {f"{name}.pth": folder / f"{name}.pth" for name in ("module", "predictor")}


def same(found, wanted):
    return found.keys() == wanted.keys() and all(
        torch.equal(found[name], value) for name, value in wanted.items()
    )


def test_predictor(saved):
    model = read_bento(saved["predictor"])
    assert (model.name, model.version, model.kind) == ("predictor", "v1", "predictor")
    assert model.created.endswith("+00:00")
    assert model.labels == LABELS
    assert model.metadata == {**METADATA, 0: "crack", "on": datetime.date(2026, 1, 31)}
    assert model.signatures == {"__call__": {"batchable": False}}
    assert model.config == tiny_cfg() | {"MODEL": model.config["MODEL"]}
    assert model.config["MODEL"]["WEIGHTS"] == "/nowhere/model_final.pkl"
    assert type(model.config["MODEL"]["RPN"]) is dict
    assert (model.class_info, model.custom_objects) == ({}, {})
    # the weights in memory, not those that the config names
    assert same(read_weights(model.weights), torch.load(saved["predictor.pth"]))


def test_module(saved):
    model = read_bento(saved["module"])
    assert model.kind == "module"
    assert model.config == tiny_cfg()
    assert model.signatures == {
        "__call__": {"batchable": True, "batch_dim": [1, 1]},
        "forward": {"batchable": True, "batch_dim": [0, 1]},
        "inference": {"batchable": False},
    }
    assert same(read_weights(model.weights), torch.load(saved["module.pth"]))


def test_custom_objects(saved):
    assert read_bento(saved["plain"]).custom_objects == {"names": ("a", "ü")}
    with pytest.raises(UntrustedModelError, match=r"requires cloudpickle\.\w+.*--trust"):
        read_bento(saved["objects"])
    model = read_bento(saved["objects"], trust=True)
    assert model.custom_objects["double"](21) == 42
    assert list(model.custom_objects) == ["double"]
    assert model.config == tiny_cfg()
    assert type(model.config["MODEL"]["RPN"]) is dict


def test_handover(saved, tmp_path):
    cfg = tiny_cfg()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = build_model(cfg).eval()
        image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    torch.save(image, tmp_path / "image.pt")
    cfg.MODEL.WEIGHTS = "/nowhere/model_final.pkl"
    cfg.MODEL.DEVICE = "cuda"
    cfg.freeze()
    given = {
        "name": "crack",
        "version": "20261123",
        "created": "2026-01-31T12:00:00.000123Z",
        "kind": "predictor",
        "labels": LABELS,
        "metadata": METADATA,
        "signatures": SIGNATURES,
        "d2run": {"categories": {"thing_names": ["yes", "1", "ü"]}, "skeleton": []},
        "custom_objects": read_bento(saved["objects"], trust=True).custom_objects,
    }
    folder = tmp_path / "crack"
    folder.mkdir()
    write_bento(folder, cfg=cfg, weights=module.state_dict(), **given)

    model = read_bento(folder, trust=True)
    created = "2026-01-31T12:00:00.000123+00:00"
    signatures = read_bento(saved["module"]).signatures
    again = given | {"created": created, "signatures": signatures}
    again["class_info"] = again.pop("d2run")
    again["custom_objects"] = model.custom_objects
    assert {name: getattr(model, name) for name in again} == again
    model.config["MODEL"]["WEIGHTS"] = cfg.MODEL.WEIGHTS
    model.config["MODEL"]["DEVICE"] = cfg.MODEL.DEVICE
    assert model.config == cfg

    archive = shutil.make_archive(str(tmp_path / "crack"), "xztar", folder)
    Path(archive).rename(tmp_path / "crack.bentomodel")
    with_bentoml("load", tmp_path)
    said = torch.load(tmp_path / "said.pt")
    wanted = outputs(module, image)
    assert len(wanted["scores"]) > 0
    torch.testing.assert_close(said.pop("outputs"), wanted)
    assert said == {
        "tag": "crack:20261123",
        "created": created,
        "labels": LABELS,
        "metadata": {
            **METADATA,
            "_is_predictor": False,  # otherwise BentoML loads the weights that the config names
            "d2run": {**given["d2run"], "kind": "predictor"},
        },
        "signatures": {
            "__call__": (True, (1, 1)),
            "forward": (True, (0, 1)),
            "inference": (False, (0, 0)),
        },
        "doubled": 42,
    }


@pytest.fixture
def written(tmp_path):
    def write(**more):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        given = {
            "name": "crack",
            "version": "v1",
            "created": "2026-01-31T12:00:00",
            "kind": "module",
            "labels": {},
            "metadata": {},
            "signatures": {},
            "cfg": CfgNode({"MODEL": {"WEIGHTS": "w", "DEVICE": "cuda", "N": (1, 2)}}),
            "weights": {"a": torch.arange(3.0)},
            "custom_objects": {},
            "d2run": {},
        }
        write_bento(folder, **(given | more))
        return folder

    return write


def test_metadata_keeps_its_types(written):
    metadata = {
        "bytes": b"\x00\xff",
        "date": datetime.date(2026, 1, 31),
        "times": [datetime.datetime(2026, 1, 31, 12, 0, 0, 123)],
        "by number": {1: "a", 2.5: "b"},
        "inf": float("-inf"),
        "texts": ["2026-01-31", "yes", "1e3", "null"],
    }
    assert read_bento(written(metadata=metadata)).metadata == metadata


def test_options(written):
    kwargs = {"inference": {"do_postprocess": False}}
    folder = written(options={"device_id": "cpu", "partial_kwargs": kwargs})
    assert read_bento(folder).options == {"device_id": "cpu", "partial_kwargs": kwargs}
    assert yaml.safe_load((folder / "model.yaml").read_text())["options"] == {
        "partial_kwargs": kwargs
    }
    edited(folder, "d2run:", "x:")
    assert read_bento(folder).options == {"partial_kwargs": kwargs}  # saved with BentoML


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"metadata": {"_is_predictor": 1}}, "metadata: BentoML uses the name '_is_predictor'"),
        ({"metadata": {"d2run": {}}}, "metadata: BentoML uses the name 'd2run' itself"),
        ({"custom_objects": {"config": 1}}, "custom_objects: BentoML uses the name 'config'"),
    ],
)
def test_reserved_names(written, more, message):
    with pytest.raises(ConfigError, match=message):
        written(**more)


LOADED = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    objects = pickle.load(file, encoding="ascii")
print(objects["scale"].factor, sorted(objects["config"]), "pipeline" in sys.modules)
"""


def test_modules_travel_in_the_pickle(written, tmp_path, monkeypatch):
    """BentoML loads the pickle before it builds a model, and d2run is not installed there."""
    package = tmp_path / "packages" / "scales_of_bento"
    package.mkdir(parents=True)
    sources = {
        "scales_of_bento/__init__.py": b"",
        "scales_of_bento/scale.py": b"class Scale:\n    factor = 3\n",
    }
    for path, source in sources.items():
        (tmp_path / "packages" / path).write_bytes(source)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    scale = importlib.import_module("scales_of_bento.scale")
    names = ["scales_of_bento.scale"]
    modules = {"names": names, "files": sources, "requirements": []}
    folder = written(custom_objects={"scale": scale.Scale()}, modules=modules)

    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(folder / "custom_objects.pkl")],
        cwd=tmp_path, env={"PYTHONSAFEPATH": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "3 ['MODEL'] False\n", done.stderr

    with pytest.raises(UntrustedModelError, match="--trust"):
        read_bento(folder)
    model = read_bento(folder, trust=True)
    assert model.modules == [scale]
    assert type(model.custom_objects["scale"]) is scale.Scale


def test_modules_that_are_not_in_the_pickle(written):
    folder = written(d2run={"modules": ["absent_of_bento"]})
    with pytest.raises(ModelCorruptError, match="lacks the modules of the model"):
        read_bento(folder)


def test_small(written, caplog):
    folder = written(metadata={"a": None, "b": {"c": None}}, d2run={"x": None})
    model = read_bento(folder)
    assert model.created == "2026-01-31T12:00:00+00:00"
    assert model.kind == "module"
    assert model.config == {"MODEL": {"WEIGHTS": "", "DEVICE": "cpu", "N": (1, 2)}}
    assert model.metadata == {"b": {}}
    assert caplog.messages == [
        "BentoML does not support null; not exported: metadata.a, metadata.b.c"
    ]
    assert (model.labels, model.signatures, model.class_info) == ({}, {}, {})
    assert sorted(p.name for p in folder.iterdir()) == [
        "custom_objects.pkl",
        "model.yaml",
        "saved_model.pth",
    ]


def test_arguments_are_not_changed(written):
    cfg = CfgNode({"MODEL": {"WEIGHTS": "w", "DEVICE": "cuda"}})
    cfg.freeze()
    base = torch.arange(1000.0)
    given = {
        "cfg": cfg,
        "weights": {"a": base[:2]},
        "labels": {"a": "b"},
        "metadata": {"a": [1, {"b": (2,)}]},
        "signatures": {"forward": {"batchable": True, "batch_dim": 0}},
        "custom_objects": {"x": {"y": [1]}},
        "d2run": {"kind": "mine", "x": []},
    }
    before = deepcopy(given)
    folder = written(**given)
    torch.testing.assert_close(given.pop("weights"), before.pop("weights"))
    assert given == before
    assert cfg.is_frozen()
    assert (folder / "saved_model.pth").stat().st_size < 3000  # without the rest of the view's base


BAD = ["Crack", "crack-", "-crack", "a.", "_a", "", "x" * 64, "a b", "ü", "a/b", "..", "a\n"]


@pytest.mark.parametrize("what", ["name", "version"])
@pytest.mark.parametrize("text", BAD)
def test_bad_names(written, what, text):
    with pytest.raises(ConfigError, match=f"BentoML does not support the {what} "):
        written(**{what: text})


def test_good_names(written):
    model = read_bento(written(name="x" * 63, version="0._-9"))
    assert (model.name, model.version) == ("x" * 63, "0._-9")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"metadata": {"a": [1, None]}}, r"metadata\.a\[1\] is null"),
        ({"metadata": {"a": object()}}, "plain values"),
        ({"d2run": {"a": {"b": [None]}}}, r"d2run\.a\.b\[0\] is null"),
        ({"created": "yesterday"}, "got 'yesterday'"),
        ({"custom_objects": {"x": (i for i in "ab")}}, "cannot pickle"),
    ],
)
def test_values_that_bentoml_does_not_support(written, more, message):
    with pytest.raises(ConfigError, match=message):
        written(**more)


def test_full_disk(written, monkeypatch):
    def fail(*args):
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(StoreError, match="cannot write the model for BentoML"):
        written()


def test_every_file_changes_the_digest(written):
    folder = written()
    digests = {read_bento(folder).sha256, read_bento(folder).sha256}
    assert len(digests) == 1
    digests.add(read_bento(written(labels={"a": "b"})).sha256)
    digests.add(read_bento(written(weights={"a": torch.ones(3)})).sha256)
    digests.add(read_bento(written(custom_objects={"a": 1})).sha256)
    assert len(digests) == 4


class Call:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def test_malicious(written, tmp_path):
    folder, sentinel = written(), tmp_path / "sentinel"
    objects = {"config": {}, "x": [Call(os.system, f"touch {sentinel}")]}
    (folder / "custom_objects.pkl").write_bytes(pickle.dumps(objects))
    with pytest.raises(UntrustedModelError, match=r"posix\.system.*--trust"):
        read_bento(folder)
    assert not sentinel.exists()
    assert read_bento(folder, trust=True).custom_objects == {"x": [0]}
    assert sentinel.exists()


def test_custom_objects_that_do_not_load(written):
    folder = written()
    (folder / "custom_objects.pkl").write_bytes(b"\x80\x04cnowhere\nThing\n.")
    with pytest.raises(StoreError, match="No module named 'nowhere'"):
        read_bento(folder, trust=True)


def edited(folder, old, new):
    path = folder / "model.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return folder


@pytest.mark.parametrize(
    "module",
    ["bentoml.detectron", "bentoml.detectron2", "bentoml._internal.frameworks.detectron"],
)
def test_modules(written, module):
    folder = edited(written(), "module: bentoml.detectron", f"module: {module}")
    assert is_bento(folder)
    assert read_bento(folder).name == "crack"


LAUGHS = "a0: &a0 ha\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(30))


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("bentoml.detectron", "bentoml.sklearn", StoreError, "a model of bentoml.sklearn"),
        ("bentoml.detectron", "pipeline.store", StoreError, "a model of pipeline.store"),
        ("module: ", "modul: ", StoreError, "a model of no framework"),
        ("name: crack", "name: [", ModelCorruptError, "not valid YAML"),
        ("name: crack", "name: [a]", ModelCorruptError, "expected text as 'name'"),
        ("version: v1", "version: 1", ModelCorruptError, "expected text as 'version'"),
        ("labels: {}", "labels: [a]", ModelCorruptError, "expected a mapping as 'labels'"),
        ("creation_time: '2026", "creation_time: 'x", ModelCorruptError, "expected a time"),
        (
            "labels: {}",
            "labels: !!python/object/apply:os.system [touch sentinel]",
            UntrustedModelError,
            "python/object/apply:os.system",
        ),
        ("labels: {}", LAUGHS, ModelCorruptError, "too many values|more than 50000 values"),
    ],
)
def test_bad_yaml(written, old, new, error, message):
    with pytest.raises(error, match=message):
        read_bento(edited(written(), old, new))


@pytest.mark.parametrize("time", ["2026-01-31 12:00:00+00:00", "'2026-01-31T12:00:00Z'"])
def test_times(written, time):
    folder = edited(written(), "'2026-01-31T12:00:00+00:00'", time)
    assert read_bento(folder).created == "2026-01-31T12:00:00+00:00"


def test_missing(written, tmp_path):
    folder = written()
    (folder / "custom_objects.pkl").unlink()
    with pytest.raises(ModelCorruptError, match="no config"):
        read_bento(folder)
    (folder / "saved_model.pth").unlink()
    with pytest.raises(ModelCorruptError, match=r"saved_model\.pth is missing"):
        read_bento(folder)
    for path in (tmp_path, tmp_path / "none", folder / "model.yaml"):
        assert not is_bento(path)
        with pytest.raises(StoreError):
            read_bento(path)


@pytest.mark.parametrize("config", [None, "text", [1]])
def test_missing_config(written, config):
    folder = written()
    (folder / "custom_objects.pkl").write_bytes(pickle.dumps({"config": config}))
    with pytest.raises(ModelCorruptError, match="no config"):
        read_bento(folder)


def test_metadata_of_other_tools(written):
    folder = edited(written(), "d2run:\n    kind: module", "d2run: mine")
    model = read_bento(folder)
    assert (model.class_info, model.metadata) == ({}, {"d2run": "mine"})
