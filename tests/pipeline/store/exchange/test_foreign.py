"""Models of BentoML: whole stores, configs for other devices, and imports with other options."""

import logging
import pickle
from pathlib import Path

import pytest
from tiny_model import CLASS_NAMES, assert_same, picture, tiny_predictor

from pipeline.errors import ConfigError, ModelExistsError, StoreError
from pipeline.store import ModelStore, export_model, import_model, load_model, save_model
from pipeline.store.api import checks
from pipeline.store.api.model import Model
from pipeline.store.disk.version import seal
from pipeline.store.exchange.bento_writing import write_bento
from pipeline.store.exchange.incoming import import_path, import_store, versions_in_store
from pipeline.store.exchange.options import ImportOptions

pytestmark = pytest.mark.detectron2


@pytest.fixture(scope="module")
def predictor():
    return tiny_predictor()


@pytest.fixture
def there(tmp_path):
    return ModelStore(tmp_path / "there")


@pytest.fixture(scope="module")
def bento(predictor, tmp_path_factory):
    """A directory of BentoML's store with models of several kinds; no test changes it."""
    home = tmp_path_factory.mktemp("bentoml")

    def write(name, version, created, device="cpu"):
        folder = home / "models" / name / version
        folder.mkdir(parents=True)
        (folder.parent / "latest").write_text(version)
        write_bento(
            folder, name=name, version=version, created=created, kind="predictor",
            labels={"team": "vision"}, metadata={"ap": 0.5}, signatures={}, cfg=predictor.cfg,
            weights=predictor.model.state_dict(), custom_objects={}, d2run={},
        )  # fmt: skip
        cfg = predictor.cfg.clone()
        cfg.MODEL.DEVICE = device
        (folder / "custom_objects.pkl").write_bytes(pickle.dumps({"config": cfg}))
        return folder

    write("crack", "b", "2026-01-01T00:00:00+00:00", device="cuda:99")
    write("crack", "a", "2026-01-02T00:00:00+00:00")
    damaged = write("damaged", "v1", "2026-01-03T00:00:00+00:00")
    (damaged / "saved_model.pth").unlink()
    write("spall", "v1", "2026-01-04T00:00:00+00:00")
    for name, module in (("other", "bentoml.sklearn"), ("created", "''")):
        folder = home / "models" / name / "v1"
        folder.mkdir(parents=True)
        (folder.parent / "latest").write_text("v1")
        (folder / "model.yaml").write_text(f"name: {name}\nversion: v1\nmodule: {module}\n")
    (home / "models" / "spall" / "incomplete").mkdir()
    (home / "bentos").mkdir()
    return home


def outcomes(there, bento, **options):
    found = import_store(there, versions_in_store(str(bento)), ImportOptions(**options))
    return {outcome.tag: outcome for outcome in found}


def test_whole_store_of_bentoml(there, bento, predictor):
    assert versions_in_store(str(bento)) == versions_in_store(str(bento / "models"))
    found = outcomes(there, bento, class_names=CLASS_NAMES)
    assert {tag: (each.is_new, each.is_foreign) for tag, each in found.items()} == {
        "crack:a": (True, False),
        "crack:b": (True, False),
        "created:v1": (False, True),
        "damaged:v1": (False, False),
        "other:v1": (False, True),
        "spall:incomplete": (False, True),
        "spall:v1": (True, False),
    }
    assert "a model of bentoml.sklearn" in str(found["other:v1"].error)
    assert "a model of no framework" in str(found["created:v1"].error)
    assert "saved_model.pth is missing" in str(found["damaged:v1"].error)
    assert "has no model.yaml" in str(found["spall:incomplete"].error)
    assert there.tags() == ["crack:a", "crack:b", "spall:v1"]
    assert there.get("crack").tag == "crack:a"  # the newest, in whatever order they came
    assert_same(load_model("crack:b", store=there)(picture()), predictor(picture()))
    again = outcomes(there, bento)
    assert [each.is_new for each in again.values() if each.model] == [False] * 3
    assert len(there.tags()) == 3


def test_whole_store_of_d2run(there, bento, tmp_path):
    import_model(bento / "models" / "crack" / "a", class_names=CLASS_NAMES, store=there)
    copy = ModelStore(tmp_path / "copy")
    assert outcomes(copy, there.root)["crack:a"].is_new
    assert copy.get("crack").digest == there.get("crack").digest


def test_a_store_is_more_than_one_model(there, bento, tmp_path):
    with pytest.raises(ConfigError, match="a store of 7 models, which keep their names"):
        outcomes(there, bento, name="x")
    with pytest.raises(StoreError, match=r"is a store of 7 models; .*python -m pipeline\.store"):
        import_model(bento, store=there)
    for path in ("crack", "crack/a", "other"):  # these are one model
        assert versions_in_store(str(bento / "models" / path)) == []
    assert versions_in_store(str(tmp_path)) == versions_in_store("s3://bucket/models") == []
    with pytest.raises(StoreError, match=r"a model of bentoml\.sklearn"):
        import_model(bento / "models" / "other", store=there)


# Configs for a device that is not here, wherever they come from


def test_a_model_of_bentoml_for_another_device(there, bento, predictor):
    source = bento / "models" / "crack" / "b"
    model = import_model(source, class_names=CLASS_NAMES, store=there)
    assert "DEVICE: cpu" in (model.path / "config.yaml").read_text()
    assert_same(load_model(model, store=there)(picture()), predictor(picture()))


def test_an_archive_for_another_device(there, bento, predictor, tmp_path):
    """d2run writes ``cpu``; another tool, or a person, can write something else."""
    model = import_model(bento / "models" / "crack" / "a", class_names=CLASS_NAMES, store=there)
    folder = Path(export_model(model, tmp_path / "copy", "dir"))
    config = (folder / "config.yaml").read_text().replace("DEVICE: cpu", "DEVICE: cuda:99")
    assert "cuda:99" in config
    (folder / "config.yaml").write_text(config)
    info = {key: model.info[key] for key in model.info if key not in ("files", "digest")}
    (folder / "model.yaml").unlink()
    seal(folder, info)
    store = ModelStore(tmp_path / "other")
    found = import_model(folder, store=store)
    assert_same(load_model(found, store=store)(picture()), predictor(picture()))
    assert "self-test passed" in checks.verify_model(store.root, found, force=True)
    cfg, _ = Model("crack", tag="crack", store=store).load("cpu")
    assert cfg.MODEL.DEVICE == "cpu"
    place = export_model(found, tmp_path, "bentoml")
    again = import_model(place, store=ModelStore(tmp_path / "again"))
    assert "DEVICE: cpu" in (again.path / "config.yaml").read_text()


def test_objects_for_another_device_are_saved(there, predictor, tmp_path):
    cfg = predictor.cfg.clone()
    cfg.MODEL.DEVICE = "cuda:99"
    saved = save_model("a", predictor.model, cfg, class_names=CLASS_NAMES, store=there)
    assert cfg.MODEL.DEVICE == "cuda:99"
    assert "DEVICE: cpu" in (saved.path / "config.yaml").read_text()
    (tmp_path / "my.yaml").write_text(cfg.dump())
    described = Model(
        "b", config=str(tmp_path / "my.yaml"), weights="random", class_names=CLASS_NAMES,
        store=there,
    )  # fmt: skip
    assert "DEVICE: cpu" in (described.save().path / "config.yaml").read_text()


# The same model again


def again(there, source, **options):
    return import_path(there, str(source), ImportOptions(**options))


def test_other_options_update_a_model(there, bento):
    source = bento / "models" / "crack" / "a"
    first, _ = again(there, source, labels={"by": "me"})
    assert first.tag == "crack:a"
    assert again(there, source) == (first, False)
    assert again(there, source, labels={"by": "me"}) == (first, False)

    names, is_new = again(there, source, class_names=CLASS_NAMES)
    assert is_new
    assert names.info.origin["updates"] == "crack:a"
    assert there.get("crack") == names
    assert names.categories.thing_names == tuple(CLASS_NAMES)
    assert names.info.labels == {"team": "vision", "by": "me"}  # those that it has are kept
    assert names.info.created == first.info.created
    assert again(there, source) == (names, False)
    assert again(there, source, class_names=CLASS_NAMES) == (names, False)

    labels, is_new = again(there, source, labels={"by": "you"}, metadata={"n": 1})
    assert is_new
    assert labels.info.origin["updates"] == names.tag
    assert labels.categories == names.categories
    assert labels.info.labels == {"team": "vision", "by": "you"}
    assert labels.info.metadata == {"ap": 0.5, "n": 1}
    assert again(there, source, metadata={"n": 1}) == (labels, False)
    assert len(there.tags()) == 3


def test_other_options_for_a_version_that_is_there(there, bento):
    source = bento / "models" / "crack" / "a"
    first, _ = again(there, source, name="x:v1", class_names=CLASS_NAMES)
    assert first.tag == "x:v1"
    assert again(there, source, name="x:v1", class_names=CLASS_NAMES) == (first, False)
    with pytest.raises(ModelExistsError, match="'x:v1' has other class names and labels"):
        again(there, source, name="x:v1", class_names=["a", "b", "c"], labels={"by": "me"})
    assert there.tags() == ["x:v1"]
    second, is_new = again(there, source, name="x:v2", class_names=CLASS_NAMES)
    assert (second.tag, is_new) == ("x:v2", True)
    with pytest.raises(ModelExistsError, match="'x:v1' already exists"):
        again(there, bento / "models" / "spall", name="x:v1")


def test_a_warning_about_class_names_is_shown_once(there, bento, caplog):
    source = bento / "models" / "crack" / "a"
    with caplog.at_level(logging.WARNING, "pipeline"):
        again(there, source)
        assert caplog.text.count("without class names") == 1
        again(there, source)
        assert caplog.text.count("without class names") == 1
