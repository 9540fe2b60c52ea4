import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_model import CLASS_NAMES, assert_same, picture, tiny_cfg, tiny_predictor

from pipeline.errors import ModelCorruptError, StoreError, UntrustedModelError
from pipeline.records import Categories
from pipeline.store import ModelStore, get, load_model, save_model
from pipeline.store.api.custom import import_modules, load_custom_objects, pack_custom

ROOT = Path(__file__).parents[4]


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "root")


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Write modules to a directory on the path, and unload them afterwards."""
    folder = tmp_path / "modules"
    names = set()
    monkeypatch.syspath_prepend(str(folder))

    def write(name, source):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        names.add(Path(name).parts[0].removesuffix(".py"))
        return path

    yield write
    for name in list(sys.modules):
        if name.partition(".")[0] in names:
            del sys.modules[name]


def put(store, objects=None, modules=None):
    files, more = pack_custom(objects, modules)
    return store.save(
        "crack",
        config_yaml="A: 1\n",
        weights={"a": torch.zeros(1)},
        categories=Categories(thing_names=("x",)),
        files=files,
        more=more,
    )


def forget(*names):
    for name in list(sys.modules):
        if name.partition(".")[0] in names:
            del sys.modules[name]


def test_objects_round_trip(store):
    scale = 3
    put(store, {"f": lambda x: x * scale, "table": {"a": (1, 2)}})
    objects = get("crack", trust=True, store=store).custom_objects
    assert objects["f"](2) == 6
    assert objects["table"] == {"a": (1, 2)}


def test_none(store):
    entry = put(store)
    assert entry.custom_objects == {}
    assert sorted(p.name for p in entry.path.iterdir()) == [
        "config.yaml", "model.yaml", "weights.safetensors"
    ]  # fmt: skip
    import_modules(entry)


def test_nothing_runs_without_trust(store, tmp_path):
    sentinel = tmp_path / "ran"
    entry = put(store, {"evil": Payload(sentinel), "good": 1})
    with pytest.raises(UntrustedModelError, match=r"\(evil, good\).*run posix\.system.*trust=True"):
        _ = entry.custom_objects
    assert not sentinel.exists()


def test_a_changed_pickle_is_refused_before_it_runs(store, tmp_path):
    entry = put(store, {"a": 1})
    sentinel = tmp_path / "ran"
    (entry.path / "custom_objects.pkl").write_bytes(pack_custom({"a": Payload(sentinel)}, None)[0][
        "custom_objects.pkl"
    ])  # fmt: skip
    with pytest.raises(ModelCorruptError, match=r"custom_objects\.pkl"):
        load_custom_objects(get("crack", trust=True, store=store))
    assert not sentinel.exists()


def test_objects_of_a_missing_module(store, write_module):
    write_module("gone_module.py", "class Thing: pass\n")
    import gone_module

    put(store, {"thing": gone_module.Thing()})
    forget("gone_module")
    Path(gone_module.__file__).unlink()
    with pytest.raises(StoreError, match=r"cannot be loaded here.*gone_module"):
        _ = get("crack", trust=True, store=store).custom_objects


def test_modules_are_saved_with_the_model(store, write_module):
    write_module("travelling.py", "class Thing:\n    size = 7\n")
    for name in ("__init__", "sub/__init__", "sub/deep"):
        write_module(f"wagon/{name}.py", f"name = {name!r}\n")
    import travelling
    import wagon.sub

    put(store, {"thing": travelling.Thing()}, [travelling, wagon.sub])
    forget("travelling", "wagon")
    for path in (Path(travelling.__file__), Path(wagon.__file__)):
        path.unlink()
    entry = get("crack", trust=True, store=store)
    assert entry.info.external_modules == ["travelling", "wagon"]
    assert entry.custom_objects["thing"].size == 7
    from wagon.sub import deep

    assert deep.name == "sub/deep"
    assert "external_modules.zip" in sys.modules["travelling"].__file__
    again = pack_custom(None, [sys.modules["travelling"], sys.modules["wagon"]])
    assert again[0] == pack_custom(None, [sys.modules["wagon"], sys.modules["travelling"]])[0]
    with zipfile.ZipFile(entry.path / "external_modules.zip") as archive:
        assert sorted(archive.namelist()) == [
            "travelling.py", "wagon/__init__.py", "wagon/sub/__init__.py", "wagon/sub/deep.py"
        ]  # fmt: skip


def test_modules_do_not_run_without_trust(store, write_module, tmp_path):
    sentinel = tmp_path / "ran"
    path = write_module("quiet_module.py", "")
    import quiet_module

    path.write_text(f"import os\nos.mkdir({str(sentinel)!r})\n")
    entry = put(store, None, [quiet_module])
    forget("quiet_module")
    with pytest.raises(UntrustedModelError, match=r"quiet_module.*would run"):
        import_modules(entry)
    assert not sentinel.exists()
    import_modules(get("crack", trust=True, store=store))
    assert sentinel.exists()


def test_another_module_of_that_name(store, write_module):
    path = write_module("twice.py", "a = 1\n")
    import twice

    put(store, None, [twice])
    entry = get("crack", trust=True, store=store)
    import_modules(entry)  # the same module
    path.write_text("a = 2\n")
    with pytest.raises(StoreError, match="another of that name"):
        import_modules(entry)


def test_a_module_that_fails(store, write_module):
    path = write_module("broken_module.py", "")
    import broken_module

    path.write_text("1 / 0\n")
    put(store, None, [broken_module])
    forget("broken_module")
    with pytest.raises(StoreError, match="cannot be imported here: ZeroDivisionError"):
        import_modules(get("crack", trust=True, store=store))
    assert "broken_module" not in sys.modules


HEADS = """
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads

@ROI_HEADS_REGISTRY.register()
class TravellingHeads(StandardROIHeads):
    pass
"""


@pytest.mark.detectron2
def test_custom_head_in_another_process(store, write_module, tmp_path):
    """In another process, which has not imported the module."""
    write_module("travelling_heads.py", HEADS)
    import travelling_heads
    from detectron2.modeling import build_model

    cfg = tiny_cfg(MODEL__ROI_HEADS__NAME="TravellingHeads")
    save_model(
        "crack",
        build_model(cfg),
        cfg,
        external_modules=[travelling_heads],
        class_names=CLASS_NAMES,
        store=store,
    )
    code = f"""
import sys
from pipeline.store import ModelStore, load_model
store = ModelStore({str(store.root)!r})
try:
    load_model("crack", store=store)
except Exception as exc:
    print(type(exc).__name__, exc)
print(type(load_model("crack", store=store, trust=True).roi_heads).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, last = done.stdout.strip().splitlines()[-2:]
    assert first.startswith("UntrustedModelError")
    assert "travelling_heads" in first
    assert last == "TravellingHeads"


@pytest.mark.detectron2
def test_model_loads_without_its_custom_objects(store, tmp_path):
    predictor = tiny_predictor()
    sentinel = tmp_path / "ran"
    saved = save_model(
        "crack",
        predictor,
        custom_objects={"evil": Payload(sentinel)},
        class_names=CLASS_NAMES,
        store=store,
    )
    assert_same(load_model(saved.tag, store=store)(picture()), predictor(picture()))
    assert not sentinel.exists()
