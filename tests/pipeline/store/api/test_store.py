import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pipeline.errors import (
    ConfigError,
    ModelCorruptError,
    ModelExistsError,
    ModelNotFoundError,
    StoreError,
    UntrustedModelError,
)
from pipeline.models.weights.weights import read_weights
from pipeline.records import Categories
from pipeline.store import ModelStore
from pipeline.store.disk import info as info_module
from pipeline.store.disk import lookup, writing

CATEGORIES = Categories(
    thing_names=("yes", "1", "ü"),
    thing_ids=(3, 1, 2),
    keypoint_names=("a", "b"),
    skeleton=((0, 1),),
)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "BUNDLED", tmp_path / "bundled")
    return ModelStore(tmp_path / "root")


def weights():
    shared = torch.arange(4.0)
    return {"a": shared, "b": shared, "c": torch.eye(3).t(), "n": torch.tensor(7)}


def save(store, name="crack", version=None, **more):
    tag = name if version is None else f"{name}:{version}"
    given = {"config_yaml": "MODEL: {MASK_ON: true}\n", "weights": weights()}
    return store.save(tag, **(given | {"categories": CATEGORIES} | more))


def test_round_trip(store):
    labels, metadata = {"line": "3"}, {"map": 0.5, "by": ["x"]}
    saved = save(store, labels=labels, metadata=metadata)
    found = store.get("crack")
    assert found == saved
    assert found.categories == CATEGORIES
    assert found.info["labels"] == labels
    assert found.info["metadata"] == metadata
    assert set(found.info) == {
        "name", "version", "module", "created", "kind", "labels", "metadata", "signatures",
        "context", "categories", "files", "digest",
    }  # fmt: skip
    found.verify()
    tensors = read_weights(found.path / "weights.safetensors")
    assert all(torch.equal(tensors[name], value) for name, value in weights().items())
    assert (found.path / "config.yaml").read_text() == "MODEL: {MASK_ON: true}\n"
    assert sorted(p.name for p in (store.root / "crack").iterdir()) == sorted(
        ["latest", found.info["version"]]
    )


def test_files_share_one_mode(store):
    path = save(store).path
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1


def test_same_content_gives_the_same_files(store):
    a, b = save(store), save(store)
    assert a.info["files"] == b.info["files"]
    assert a.tag < b.tag


def test_tags(store):
    first, second = save(store, version="2026-a"), save(store, version="2026-b")
    other = save(store, version="2026-b.1")
    assert store.get("crack").tag == store.get("crack:latest").tag == other.tag
    assert store.get("crack:2026-a") == first
    assert store.get("crack:2026-b") == second  # an exact match, although it is also a prefix
    assert store.get("crack:2026-b.") == other
    assert [entry.tag for entry in store.list()] == [first.tag, second.tag, other.tag]
    assert store.list("crack") == store.list()
    assert store.list("none") == []
    with pytest.raises(StoreError, match="matches several versions: 2026-a, 2026-b"):
        store.get("crack:2026")


@pytest.mark.parametrize(
    "tag",
    [
        "../x", "a/b", "a:..", "x" * 64, "", ":", ":v", "a:b:c", "a:../b", ".hidden",
        "a\n", "a:b\n", "a b", "ü", "-a", "a:.staging", "a\x00",
    ],
)  # fmt: skip
def test_bad_tags(store, tag):
    with pytest.raises(ConfigError):
        store.get(tag)


@pytest.mark.parametrize("more", [{"name": "-a"}, {"version": "latest"}, {"version": "../v"}])
def test_bad_names_to_save(store, more):
    with pytest.raises(ConfigError):
        save(store, **more)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("tag", "hint"),
    [("carck", "did you mean 'crack'"), ("crack:v2", "did you mean 'crack:v1'")],
)
def test_not_found(store, tag, hint):
    save(store, version="v1")
    with pytest.raises(ModelNotFoundError, match=hint):
        store.get(tag)


def test_empty_store(store):
    assert store.list() == []
    with pytest.raises(ModelNotFoundError):
        store.get("crack")


def test_exists(store):
    save(store, version="v1")
    with pytest.raises(ModelExistsError, match="crack:v1"):
        save(store, version="v1")


def test_one_of_many_writers_succeeds(store):
    def attempt(_):
        try:
            return save(store, version="v1")
        except ModelExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = [entry for entry in pool.map(attempt, range(8)) if entry]
    assert len(found) == 1
    store.get("crack:v1").verify()
    assert sorted(path.name for path in (store.root / "crack").iterdir()) == ["latest", "v1"]


@pytest.mark.parametrize("step", ["write_weights", "seal", "write_whole", "open_version"])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_failed_save_leaves_no_incomplete_files(store, monkeypatch, step, error):
    old = save(store, version="v1")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(writing, step, fail)
    with pytest.raises((StoreError, KeyboardInterrupt)):
        save(store, version="v2")
    monkeypatch.undo()
    assert not list((store.root / "crack").glob(".*"))
    for entry in ModelStore(store.root).list("crack"):
        entry.verify()
    if step != "open_version":  # the new version exists by then
        assert ModelStore(store.root).get("crack") == old


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_killed_save(tmp_path, step):
    code = f"""
import os, pathlib, torch
from pipeline.store import ModelStore
from pipeline.records import Categories
store = ModelStore({str(tmp_path)!r})
def save(version): store.save(f"crack:{{version}}", config_yaml="A: 1",
                   weights={{"a": torch.zeros(2)}}, categories=Categories(thing_names=("x",)))
save("v1")
def die(*args): os._exit(9)
if {step!r} == "fsync": os.fsync = die
else: pathlib.Path.rename = die
save("v2")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=lookup.BUNDLED.parents[2], check=False)
    assert done.returncode == 9
    store = ModelStore(tmp_path)
    assert [entry.tag for entry in store.list("crack")] == ["crack:v1"]
    assert store.get("crack").tag == "crack:v1"


@pytest.mark.parametrize("pointer", [None, "", "gone", "../x", b"\xff"])
def test_latest_falls_back_to_the_newest(store, pointer):
    save(store, version="b")
    newest = save(store, version="a")
    path = store.root / "crack" / "latest"
    path.unlink()
    if pointer is not None:
        path.write_bytes(pointer if isinstance(pointer, bytes) else pointer.encode())
    assert store.get("crack").tag == newest.tag


@pytest.mark.parametrize("name", ["model.yaml", "config.yaml", "weights.safetensors"])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_flipped_bit(store, name, place):
    path = save(store).path / name
    data = bytearray(path.read_bytes())
    data[{"first": 0, "middle": len(data) // 2, "last": -1}[place]] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelCorruptError, match=name):
        store.get("crack").verify()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda p: (p / "config.yaml").unlink(), "missing files: config", id="removed"),
        pytest.param(
            lambda p: (p / "x.pkl").touch(),
            "not saved with it: .*x.pkl",
            id="added",
        ),
        pytest.param(lambda p: (p / "sub").mkdir(), "not saved with it: .*sub", id="folder"),
        pytest.param(
            lambda p: (p / "config.yaml").rename(p / "weights.safetensors"),
            "missing files",
            id="swapped",
        ),
        pytest.param(lambda p: (p / "config.yaml").write_text(""), "config.yaml", id="emptied"),
    ],
)
def test_damage(store, damage, message):
    damage(save(store).path)
    with pytest.raises(ModelCorruptError, match=message):
        store.get("crack").verify()


def test_entry_under_another_name(store):
    path = save(store, version="v1").path
    path.rename(path.with_name("v9"))
    with pytest.raises(ModelCorruptError, match="contains the model 'crack:v1'"):
        store.get("crack:v9")


def test_python_tags_in_model_yaml(store):
    path = save(store, version="v1").path / "model.yaml"
    body = b"name: crack\nversion: v1\nlabels: !!python/object/apply:os.getpid []\n"
    digest = info_module.hashlib.sha256(body).hexdigest()
    path.write_bytes(body + f"digest: {digest}\n".encode())
    with pytest.raises(UntrustedModelError):
        _ = store.get("crack").info.labels


@pytest.mark.parametrize(
    "more",
    [
        {"metadata": {"x": object()}},
        {"config_yaml": "a: ["},
        {"config_yaml": "just text"},
    ],
)
def test_unsupported_content(store, more):
    with pytest.raises(ConfigError):
        save(store, **more)
    assert store.list() == []


def test_arguments_are_not_changed(store):
    labels, metadata = {"a": "b"}, {"c": [1]}
    save(store, labels=labels, metadata=metadata)
    assert (labels, metadata) == ({"a": "b"}, {"c": [1]})


def test_own_models_precede_bundled_ones(store, tmp_path):
    bundled = save(ModelStore(tmp_path / "bundled"), "shapes", version="v1")
    assert store.get("shapes") == bundled
    assert store.list() == [bundled]
    mine = save(store, "shapes", version="v2")
    assert store.get("shapes") == mine
    assert store.get("shapes:v1") == bundled
    assert store.list("shapes") == [bundled, mine]


def test_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("D2RUN_HOME", raising=False)
    assert ModelStore().root == tmp_path / ".d2run" / "models"
    assert ModelStore("~/m").root == tmp_path / "m"
    monkeypatch.setenv("D2RUN_HOME", "/srv")
    assert str(ModelStore().root) == "/srv/models"
    assert not (tmp_path / ".d2run").exists()
