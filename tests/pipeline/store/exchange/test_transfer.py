"""Exports and imports: archives, directories, addresses and BentoML."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny_model import CLASS_NAMES, assert_same, picture, tiny_predictor

from pipeline.errors import ConfigError, ModelCorruptError, ModelExistsError, StoreError
from pipeline.store import (
    ModelStore,
    export_model,
    import_model,
    load_model,
    save_model,
)
from pipeline.store.exchange.incoming import import_path
from pipeline.store.exchange.options import ImportOptions

pytestmark = pytest.mark.detectron2
ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def predictor():
    return tiny_predictor()


@pytest.fixture(scope="module")
def here(predictor, tmp_path_factory):
    """A store with one model, which no test changes."""
    store = ModelStore(tmp_path_factory.mktemp("here"))
    save_model(
        "crack:v1",
        predictor,
        class_names=CLASS_NAMES,
        labels={"team": "vision"},
        metadata={"ap": 0.5},
        custom_objects={"scale": 3},
        store=store,
    )
    return store


@pytest.fixture
def there(tmp_path):
    return ModelStore(tmp_path / "there")


@pytest.mark.parametrize(
    ("path", "format", "written"),
    [
        ("", None, "crack-v1.tar.xz"),
        ("sub/", "zip", "sub/crack-v1.zip"),
        ("a.tar.gz", None, "a.tar.gz"),
        ("b.zip", None, "b.zip"),
        ("c", None, "c.tar.xz"),
        ("e.tar", None, "e.tar"),
        ("f.tbz2", None, "f.tbz2"),
        ("g", "gz", "g.tar.gz"),
        ("crack-1.2", "tar", "crack-1.2.tar"),
        ("d/e", "dir", "d/e"),
        ("", "folder", "crack-v1"),
    ],
)
def test_round_trip(here, there, tmp_path, predictor, path, format, written):
    out = tmp_path / "out"
    out.mkdir()
    place = export_model("crack", f"{out}/{path}", format, store=here)
    assert Path(place) == out / written
    taken = import_model(place, store=there)
    assert taken == here.get("crack") or taken.digest == here.get("crack").digest
    assert taken.path == there.root / "crack" / "v1"
    taken.verify()
    assert_same(load_model("crack", store=there)(picture()), predictor(picture()))
    assert [p.name for p in there.root.iterdir()] == ["crack"]


def test_archives_are_the_same_bytes(here, tmp_path):
    for suffix in ("tar.xz", "tar.gz", "zip"):
        a, b = (export_model("crack", tmp_path / f"{n}.{suffix}", store=here) for n in "ab")
        assert Path(a).read_bytes() == Path(b).read_bytes()


def test_address(here, there):
    place = export_model("crack", "memory://bucket/", store=here)
    assert place == "memory://bucket/crack-v1.tar.xz"
    assert import_model(place, store=there).digest == here.get("crack").digest
    with pytest.raises(StoreError, match=r"already exists"):
        export_model("crack", place, store=here)
    export_model("crack", place, overwrite=True, store=here)


def test_second_import_changes_nothing(here, there, tmp_path):
    place = export_model("crack", tmp_path, store=here)
    first, new = import_path(there, place, ImportOptions())
    again, new_again = import_path(there, place, ImportOptions())
    assert (first, new, new_again) == (again, True, False)


def test_another_model_of_that_tag(here, there, tmp_path, predictor):
    save_model("crack:v1", predictor, class_names=["a", "b", "c"], store=there)
    place = export_model("crack", tmp_path, store=here)
    with pytest.raises(ModelExistsError, match="another model 'crack:v1'"):
        import_model(place, store=there)


def test_older_model_does_not_become_the_latest(here, there, tmp_path, predictor):
    save_model("crack:v2", predictor, class_names=CLASS_NAMES, store=there)
    import_model(export_model("crack", tmp_path, store=here), store=there)
    assert there.get("crack").tag == "crack:v2"


@pytest.mark.parametrize("name", ["model.yaml", "weights.safetensors", "custom_objects.pkl"])
def test_a_flipped_bit(here, there, tmp_path, name):
    folder = Path(export_model("crack", tmp_path / "copy", format="dir", store=here))
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelCorruptError, match=name):
        import_model(folder, store=there)
    assert list(there.root.iterdir()) == []


def test_damaged_model_is_not_exported(here, there, tmp_path, predictor):
    saved = save_model("crack", predictor, class_names=CLASS_NAMES, store=there)
    (saved.path / "config.yaml").write_text("")
    with pytest.raises(ModelCorruptError):
        export_model("crack", tmp_path / "x.zip", store=there)
    assert not (tmp_path / "x.zip").exists()


def test_nothing_is_overwritten(here, tmp_path):
    (tmp_path / "x.zip").write_text("mine")
    with pytest.raises(StoreError, match="exists"):
        export_model("crack", tmp_path / "x.zip", store=here)
    assert (tmp_path / "x.zip").read_text() == "mine"
    (tmp_path / "crack-v1").mkdir()
    (tmp_path / "crack-v1" / "mine").touch()
    with pytest.raises(StoreError, match="not an exported model"):
        export_model("crack", tmp_path, format="dir", overwrite=True, store=here)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("missing.tar.xz", ConfigError, "no such file, directory or address"),
        ("weights.pth", ConfigError, "only weights"),
        ("empty", StoreError, "has no model"),
        ("text.zip", StoreError, r"text\.zip"),
        ("nowhere://x/y.zip", StoreError, "nowhere"),
    ],
)
def test_not_a_model(there, tmp_path, monkeypatch, path, error, message):
    monkeypatch.chdir(tmp_path)
    Path("weights.pth").touch()
    Path("empty").mkdir()
    Path("text.zip").write_text("text")
    with pytest.raises(error, match=message):
        import_model(path, store=there)
    assert there.tags() == []


def test_options_for_foreign_models_only(here, there, tmp_path):
    place = export_model("crack", tmp_path, store=here)
    with pytest.raises(ConfigError, match="keeps its name, labels"):
        import_model(place, name="other", labels={"a": "b"}, store=there)


@pytest.mark.parametrize(
    ("path", "format", "message"),
    [
        ("x", "rar", "expected one of tar.xz, .*, got 'rar'"),
        ("x", "", "expected one of"),
        ("x.zip", "tar.gz", r"has the suffix of format zip, not tar\.gz"),
        ("x.bentomodel", "tar.xz", "suffix of format bentoml"),
        ("x.TAR.ZST", None, r"unsupported suffix; use \.tar\.xz, "),
        ("memory://bucket/x", "dir", "cannot write to an address"),
    ],
)
def test_wrong_format(here, tmp_path, monkeypatch, path, format, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        export_model("crack", path, format, store=here)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["zip", "dir", "bentoml"])
def test_export_under_another_name(here, there, tmp_path, format):
    place = export_model("crack", tmp_path, format, name="spall:2026", trust=True, store=here)
    assert Path(place).name.startswith("spall-2026")
    imported = import_model(place, trust=True, store=there)
    assert imported.tag == "spall:2026"
    imported.verify()
    ours = here.get("crack")
    for key in ("created", "labels", "metadata", "signatures", "categories", "kind"):
        assert imported.info[key] == ours.info[key]
    assert imported.digest != ours.digest
    ours.verify()
    kept = export_model("crack", tmp_path, format, name="rust", trust=True, store=here)
    assert import_model(kept, trust=True, store=there).tag == "rust:v1"
    with pytest.raises(ConfigError, match="expected"):
        export_model("crack", tmp_path, format, name="../x", trust=True, store=here)


def test_a_name_that_leads_out_of_the_store(here, there, tmp_path):
    """A complete, sealed model with the name ``../../x``."""
    from pipeline.store.disk.info import sealed

    folder = Path(export_model("crack", tmp_path / "copy", format="dir", store=here))
    info = {key: value for key, value in here.get("crack").info.items() if key != "digest"}
    for bad in ({"name": "../../x"}, {"version": "../y"}, {"version": "latest"}):
        (folder / "model.yaml").write_bytes(sealed(info | bad))
        with pytest.raises(StoreError, match="cannot import the model"):
            import_model(folder, store=there)
    files = info["files"] | {"../../../x": {"size": 0, "sha256": ""}}
    (folder / "model.yaml").write_bytes(sealed(info | {"files": files}))
    with pytest.raises(ModelCorruptError, match="a file is called"):
        import_model(folder, store=there)
    assert list(there.root.iterdir()) == []


# Training


@pytest.fixture
def training(tmp_path, predictor):
    folder = tmp_path / "My Output (1)"
    folder.mkdir()
    (folder / "config.yaml").write_text(predictor.cfg.dump())
    weights = predictor.model.state_dict()
    averages = {f"module.{k}": v + 1 for k, v in weights.items() if v.is_floating_point()}
    old = {key: torch.zeros_like(value) for key, value in weights.items()}
    torch.save({"model": old, "iteration": 1}, folder / "model_0000001.pth")
    torch.save(
        {"model": weights, "optimizer": {"state": {}}, "ema_state": averages, "iteration": 2},
        folder / "model_final.pth",
    )
    (folder / "last_checkpoint").write_text("model_final.pth")
    (folder / "metrics.json").touch()
    return folder


def test_training_output(there, training, predictor):
    taken = import_model(training, class_names=CLASS_NAMES, labels={"by": "me"}, store=there)
    assert taken.info.name == "my_output_1_"
    assert taken.info.labels == {"by": "me"}
    assert taken.info.origin["checkpoint"] == "model_final.pth"
    assert_same(load_model(taken, store=there)(picture()), predictor(picture()))
    assert import_path(there, str(training), ImportOptions()) == (taken, False)


def test_last_checkpoint_is_imported(there, training):
    (training / "last_checkpoint").write_text("/where/it/was/trained/model_0000001.pth")
    taken = import_model(training, name="zero:v1", class_names=CLASS_NAMES, store=there)
    assert taken.tag == "zero:v1"
    weights = load_model(taken, store=there).model.state_dict()
    assert not any(value.any() for value in weights.values())


def test_ambiguous_checkpoints_are_rejected(there, training):
    (training / "last_checkpoint").unlink()
    (training / "model_final.pth").rename(training / "model_0000002.pth")
    with pytest.raises(StoreError, match=r"2 checkpoints.*model_0000001\.pth.*--weights"):
        import_model(training, class_names=CLASS_NAMES, store=there)


def test_averaged_weights(there, training, predictor):
    taken = import_model(training, class_names=CLASS_NAMES, ema=True, store=there)
    name = "roi_heads.box_predictor.cls_score.weight"
    got, want = load_model(taken, store=there).model, predictor.model
    assert torch.equal(got.state_dict()[name], want.state_dict()[name] + 1)
    plain, new = import_path(there, str(training), ImportOptions(name=taken.info.name))
    assert new
    assert plain.tag != taken.tag


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ema_state": None}, "no averaged weights"),
        ({"ema_state": {}}, "no averaged weights"),
        ({"ema_state": {"strange": torch.zeros(1)}}, "averages of unknown weights: strange"),
    ],
)
def test_no_averaged_weights(there, training, change, message):
    path = training / "model_final.pth"
    torch.save(torch.load(path) | change, path)
    with pytest.raises(ModelCorruptError, match=message):
        import_model(training, class_names=CLASS_NAMES, ema=True, store=there)


def test_class_names_that_do_not_fit(there, training):
    with pytest.raises(ConfigError, match=r"has 2 classes.*is 3"):
        import_model(training, class_names=["a", "b"], store=there)


# BentoML

BENTO = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = [{root!r}, {support!r}]
import bentoml, torch
from tiny_model import CLASS_NAMES, picture, tiny_predictor, tiny_cfg
import numpy as np

def found(model):
    image = torch.from_numpy(picture().transpose(2, 0, 1).astype("float32"))
    with torch.no_grad():
        output = model([{{"image": image, "height": 72, "width": 100}}])[0]["instances"]
    return [output.pred_boxes.tensor.tolist(), output.scores.tolist()]

imported = bentoml.models.import_model({archive!r})
back = bentoml.detectron.load_model(str(imported.tag))
predictor = tiny_predictor()
saved = bentoml.detectron.save_model("theirs", predictor, labels={{"team": "vision"}})
module = bentoml.detectron.save_model("module", predictor.model, predictor.cfg,
    signatures={{"__call__": {{"batchable": True, "batch_dim": 0}}}})
extra = bentoml.detectron.save_model("extra", predictor, custom_objects={{"scale": np.float32(2)}})
exported = saved.export({out!r})
json.dump({{
    "tag": str(imported.tag), "labels": dict(imported.info.labels),
    "found": found(back), "want": found(predictor.model),
    "exported": exported,
    **{{m.tag.name: bentoml.models.get(m.tag).path for m in (saved, module, extra)}},
}}, open({result!r}, "w"), default=str)
"""


@pytest.fixture(scope="module")
def bentoml(here, tmp_path_factory):
    """BentoML's results for an export, and a model that it saved."""
    if find_spec("bentoml") is None:  # not imported here: it sets up logging for the process
        pytest.skip("the extra 'bentoml' is not installed")
    folder = tmp_path_factory.mktemp("bentoml")
    archive = export_model("crack", folder / "ours.bentomodel", trust=True, store=here)
    result = folder / "result.json"
    code = BENTO.format(
        root=str(ROOT),
        support=str(ROOT / "tests" / "support"),
        archive=archive,
        out=f"{folder}/",
        result=str(result),
    )
    path = [str(_with_metadata(folder))]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": os.pathsep.join(path),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(result.read_text())


def _with_metadata(folder):
    """BentoML requires the distribution ``detectron2``, which a plain copy does not have."""
    try:
        version("detectron2")
    except PackageNotFoundError:
        info = folder / "site" / "detectron2-0.7.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.7.2\n")
    return folder / "site"


def test_bentoml_loads_exports(bentoml):
    assert bentoml["tag"] == "crack:v1"
    assert bentoml["labels"] == {"team": "vision"}
    assert bentoml["found"] == bentoml["want"]


def test_models_of_bentoml_load(bentoml, there, predictor):
    for place in ("theirs", "exported"):
        store = ModelStore(there.root / place)
        taken = import_model(bentoml[place], class_names=CLASS_NAMES, store=store)
        assert taken.info.name == "theirs"
        assert taken.info.labels == {"team": "vision"}
        assert taken.info.kind == "predictor"
        assert_same(load_model(taken, store=store)(picture()), predictor(picture()))
        assert import_path(store, bentoml[place], ImportOptions()) == (taken, False)
    by_name = Path(bentoml["theirs"]).parent  # has BentoML's ``latest``
    assert import_path(store, str(by_name), ImportOptions()) == (taken, False)


def test_a_module_of_bentoml(bentoml, there, predictor):
    taken = import_model(bentoml["module"], class_names=CLASS_NAMES, name="mine", store=there)
    assert taken.info.name == "mine"
    assert taken.info.kind == "module"
    assert taken.info.signatures["__call__"]["batchable"] is True
    inputs = [{"image": torch.from_numpy(picture().transpose(2, 0, 1).copy())}]
    with torch.no_grad():
        assert_same(load_model(taken, store=there)(inputs)[0], predictor.model(inputs)[0])


def test_custom_objects_of_bentoml(bentoml, there):
    from pipeline.errors import UntrustedModelError

    with pytest.raises(UntrustedModelError, match="trust"):
        import_model(bentoml["extra"], class_names=CLASS_NAMES, store=there)
    assert there.tags() == []
    import_model(bentoml["extra"], class_names=CLASS_NAMES, trust=True, store=there)
    assert there.get("extra", trust=True).custom_objects == {"scale": 2}


def test_export_and_import(here, there, tmp_path, predictor):
    """Kind, class names, labels, metadata and objects survive BentoML's format."""
    place = export_model("crack", tmp_path, format="bentoml", trust=True, store=here)
    assert place.endswith("crack-v1.bentomodel")
    taken = import_model(place, trust=True, store=there)
    ours = here.get("crack")
    for key in ("name", "version", "created", "kind", "labels", "metadata", "signatures"):
        assert taken.info[key] == ours.info[key]
    assert taken.categories == ours.categories
    assert there.get("crack", trust=True).custom_objects == {"scale": 3}
    assert_same(load_model(taken, store=there)(picture()), predictor(picture()))
