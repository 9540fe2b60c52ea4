import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata as packages
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_model import CLASS_NAMES, assert_same, picture, tiny_cfg, tiny_predictor

from pipeline.errors import ConfigError, ModelCorruptError, StoreError, UntrustedModelError
from pipeline.records import Categories
from pipeline.store import ModelStore, get, load_model, save_model
from pipeline.store.api import custom
from pipeline.store.api.code.importing import SourceFinder
from pipeline.store.api.code.packing import pack_modules
from pipeline.store.api.custom import (
    import_modules,
    load_custom_objects,
    pack_custom,
    warn_unsaved,
)

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
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
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
    assert entry.info.external_modules == ["travelling", "wagon.sub"]
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


def test_modules_that_are_imported_are_saved_again(store, write_module):
    write_module("wagon/__init__.py", "")
    write_module("wagon/seat.py", "")
    import wagon.seat

    put(store, None, [wagon.seat])
    forget("wagon")
    import_modules(get("crack", trust=True, store=store))
    assert isinstance(sys.modules["wagon"].__loader__, SourceFinder)
    import wagon.seat as again

    assert again is not wagon
    assert list(pack_modules([again]).files) == ["wagon/__init__.py", "wagon/seat.py"]


def run(store, code, *path):
    """Run code in a process without the modules of this test on its path."""
    head = (
        "from pipeline.store import ModelStore, get, load_model\n"
        f"store = ModelStore({str(store.root)!r})\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + code],
        cwd=ROOT, env=env, capture_output=True, text=True, check=True,
    ).stdout.strip().splitlines()  # fmt: skip


def test_a_module_of_a_subpackage(store, write_module):
    """Relative imports, parents that import nothing, and objects of sibling modules."""
    write_module("train/__init__.py", "parents = ['train']\n")
    write_module("train/sub/__init__.py", "from .. import parents\nparents.append('sub')\n")
    write_module("train/sub/heads.py", "from ..tools import scale\nfrom . import later\n")
    write_module("train/sub/later.py", "class Thing:\n    def __init__(self): self.size = 3\n")
    write_module("train/tools.py", "scale = 7\n")
    write_module("train/lazy.py", "def line(): return __file__\n")
    write_module("train/.hidden/x.py", "")
    import train.sub.heads

    saved = put(store, {"thing": train.sub.later.Thing()}, [train.sub.heads])
    assert saved.info.external_modules == ["train.sub.heads"]
    assert "requirements" not in saved.info
    lines = run(
        store,
        """
import inspect, sys
model = get("crack", trust=True, store=store)
print(model.custom_objects["thing"].size)
heads = sys.modules["train.sub.heads"]
print(heads.scale, sys.modules["train"].parents, "train.lazy" in sys.modules)
import train.lazy
print(train.lazy.line().endswith("external_modules.zip/train/lazy.py"), len(sys.meta_path))
print(inspect.getsource(train.lazy.line).strip())
model.import_modules()
print(len(sys.meta_path))
""",
    )
    assert lines[:2] == ["3", "7 ['train', 'sub'] False"]
    assert lines[2] == f"True {lines[4]}"  # one more finder, not two
    assert lines[3] == "def line(): return __file__"


def test_packages_without_an_init(store, write_module, tmp_path):
    """Only the directory of the module is saved; packages elsewhere can share its parents."""
    write_module("fleet/red/heads.py", "from . import tools\nfrom fleet.blue import b\n")
    write_module("fleet/red/tools.py", "a = 1\n")
    other = tmp_path / "elsewhere" / "fleet" / "blue"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("b = 2\n")
    sys.path.append(str(tmp_path / "elsewhere"))
    try:
        import fleet.red.heads
    finally:
        sys.path.remove(str(tmp_path / "elsewhere"))

    assert list(pack_modules([fleet.red.heads]).files) == [
        "fleet/red/heads.py", "fleet/red/tools.py"
    ]  # fmt: skip
    put(store, None, [fleet.red.heads])
    code = """
import sys
get("crack", trust=True, store=store).import_modules()
print(sys.modules["fleet.red.heads"].b, sys.modules["fleet.red.tools"].a)
"""
    assert run(store, code, tmp_path / "elsewhere") == ["2 1"]
    forget("fleet")
    with pytest.raises(StoreError, match=r"'fleet.red.heads' cannot be .*No module named 'fleet.b"):
        import_modules(get("crack", trust=True, store=store))
    assert "fleet.red.tools" not in sys.modules


def test_modules_in_a_zip(write_module, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("lib/boxed/__init__.py", "")
        archive.writestr("lib/boxed/inner.py", "x = 1\n")
        archive.writestr("lib/lone.py", "y = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "all.zip" / "lib"))
    write_module("boxed/unused.py", "")  # so that the fixture unloads them
    write_module("lone/unused.py", "")
    import boxed.inner
    import lone

    assert pack_modules([boxed.inner, lone]).files == {
        "boxed/__init__.py": b"", "boxed/inner.py": b"x = 1\n", "lone.py": b"y = 1\n"
    }  # fmt: skip


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package in a directory on the path."""
    folder = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(folder))

    def install(name, version, *files, record=True):
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "top_level.txt").write_text(files[0].partition("/")[0] + "\n")
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text("")
        if record:
            (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        return info

    return install


def test_installed_modules_are_requirements(store, write_module, install, caplog):
    files = ("depot/__init__.py", "depot/track/__init__.py", "depot/track/rail.py")
    info = install("Depot-Tools", "1.2", *files)
    write_module("depot/unused.py", "")
    write_module("own.py", "import depot.track\n")
    import depot.track.rail
    import own

    saved = put(store, None, [depot.track.rail, own])
    assert saved.info.external_modules == ["depot.track.rail", "own"]
    assert saved.info.requirements == ["Depot-Tools==1.2"]
    assert zipfile.ZipFile(saved.path / "external_modules.zip").namelist() == ["own.py"]
    forget("depot", "own")
    trusted = get("crack", trust=True, store=store)
    import_modules(trusted)
    assert {"depot.track.rail", "own"} <= set(sys.modules)
    assert not caplog.records

    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Depot-Tools\nVersion: 1.3\n")
    info.rename(info.with_name("Depot_Tools-1.3.dist-info"))
    import_modules(trusted)
    assert caplog.messages == [
        "the model was saved with Depot-Tools==1.2, but Depot-Tools 1.3 is installed"
    ]
    shutil.rmtree(info.with_name("Depot_Tools-1.3.dist-info"))
    with pytest.raises(StoreError, match=r"Depot-Tools==1.2, .* pip install 'Depot-Tools==1.2'"):
        import_modules(trusted)


def test_what_counts_as_installed(write_module, install):
    install("recorded", "1", "recorded/__init__.py", "spaced/inner/mod.py")
    install("debian", "2", "debian/__init__.py", record=False)
    write_module("editable/__init__.py", "")  # its dist-info records no source
    install("editable", "3", "__editable__.py")
    write_module("recorded/unused.py", "")
    write_module("debian/unused.py", "")
    write_module("spaced/unused.txt", "")
    import debian
    import editable
    import recorded
    import spaced.inner
    import spaced.inner.mod

    found = [pack_modules([module]) for module in (recorded, debian, editable, spaced.inner.mod)]
    assert [one.requirements for one in found] == [
        ["recorded==1"], ["debian==2"], [], ["recorded==1"]
    ]  # fmt: skip
    assert [list(one.files) for one in found] == [[], [], ["editable/__init__.py"], []]
    assert pack_modules([spaced.inner]).requirements == ["recorded==1"]


def test_a_project_of_detectron2_is_a_requirement(store):
    point_rend = pytest.importorskip("detectron2.projects.point_rend")
    saved = put(store, None, [point_rend])
    assert saved.info.external_modules == ["detectron2.projects.point_rend"]
    assert saved.info.requirements == [f"detectron2=={packages.version('detectron2')}"]
    assert "external_modules.zip" not in saved.info.files
    import_modules(get("crack", trust=True, store=store))


def compiled(name, folder):
    module = ModuleType(name)
    module.__file__ = str(folder / f"{name}.cpython-311-x86_64-linux-gnu.so")
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda _: sys, "'sys' is part of Python; remove it"),
        (lambda _: zipfile, "'zipfile' is part of Python; remove it"),
        (lambda _: ModuleType("made_here"), "'made_here' has no Python source"),
        (lambda folder: compiled("fast", folder), "'fast' has no Python source"),
        (lambda _: sys.modules["__main__"], "'__main__' is the script or notebook that runs"),
        (lambda _: "heads", "expected modules, as after 'import my_heads', got 'heads'"),
    ],
)
def test_modules_that_cannot_be_saved(module, message, tmp_path):
    with pytest.raises(ConfigError, match=f"external_modules: {message}"):
        pack_modules([module(tmp_path)])


def test_compiled_modules_in_a_package(write_module, caplog):
    write_module("mixed/__init__.py", "")
    path = write_module(f"mixed/_C{EXTENSION_SUFFIXES[0]}", "")
    import mixed

    assert list(pack_custom(None, [mixed])[0]) == ["external_modules.zip"]
    assert caplog.messages == [f"compiled modules are not saved: {path}"]


def test_modules_that_are_missing_are_reported(write_module, caplog):
    write_module("objects_of.py", "class Thing: pass\n")
    write_module("helpers.py", "")
    write_module("heads.py", "import helpers\nimport numpy, json\nfrom detectron2 import config\n")
    import heads
    import objects_of

    files = pack_custom({"x": objects_of.Thing(), "f": lambda: 1}, [heads])[0]
    warn_unsaved("crack", files, ["detectron2.modeling", "torch.nn"])
    assert caplog.messages == [
        "'crack' requires modules that are not saved with it: helpers, objects_of. Add them to "
        "external_modules"
    ]
    caplog.clear()
    warn_unsaved(
        "crack",
        pack_custom({"x": objects_of.Thing()}, [heads, objects_of, sys.modules["helpers"]])[0],
        [],
    )
    assert not caplog.messages


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("external_modules", ["os; x"]),
        ("external_modules", "os"),
        ("requirements", ["x==1' --index-url 'http://evil"]),
        ("requirements", ["x"]),
    ],
)
def test_names_that_d2run_does_not_write(store, write_module, key, value):
    files, more = {}, {"external_modules": ["json"], key: value}
    saved = store.save(
        "crack",
        config_yaml="A: 1\n",
        weights={"a": torch.zeros(1)},
        categories=Categories(thing_names=("x",)),
        files=files,
        more=more,
    )
    with pytest.raises(ModelCorruptError, match=f"the {key} of '{saved.tag}' are not valid"):
        import_modules(get(saved.tag, trust=True, store=store))


HEADS = """
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling import GeneralizedRCNN, StandardROIHeads
from ..settings import FACTOR

@ROI_HEADS_REGISTRY.register()
class TravellingHeads(StandardROIHeads):
    def forward_with_given_boxes(self, features, instances):
        for found in super().forward_with_given_boxes(features, instances):
            found.scores = found.scores * FACTOR
        return instances

@META_ARCH_REGISTRY.register()
class TravellingRCNN(GeneralizedRCNN):
    pass

class Scale:
    def __call__(self, value):
        return value * FACTOR
"""


@pytest.mark.detectron2
def test_custom_architecture_in_another_process(store, write_module, tmp_path, monkeypatch):
    """Registered classes of a subpackage: the same detections in a process without the package."""
    write_module("trained/__init__.py", "")
    write_module("trained/settings.py", "FACTOR = 0.5\n")
    write_module("trained/arch/__init__.py", "")
    write_module("trained/arch/heads.py", HEADS)
    from detectron2.engine import DefaultPredictor
    from trained.arch import heads

    names = {
        "MODEL__META_ARCHITECTURE": "TravellingRCNN",
        "MODEL__ROI_HEADS__NAME": "TravellingHeads",
    }
    predictor = DefaultPredictor(tiny_cfg(**names))
    given = {"class_names": CLASS_NAMES, "store": store}
    said = []  # not caplog, whose handlers get another level when torch's logger is quietened
    monkeypatch.setattr(custom._log, "warning", lambda text, *args: said.append(text % args))
    save_model("alone:v1", predictor, **given)
    assert said == [
        "'alone:v1' requires modules that are not saved with it: trained. Add them to "
        "external_modules"
    ]
    said.clear()
    objects = {"scale": heads.Scale()}
    save_model("crack", predictor, custom_objects=objects, external_modules=[heads], **given)
    assert not said
    lines = run(
        store,
        f"""
import sys
sys.path.append("tests/support")
import torch
from tiny_model import picture
try:
    load_model("crack", store=store)
except Exception as exc:
    print(type(exc).__name__, exc)
predictor = load_model("crack", store=store, trust=True)
torch.save(predictor(picture())["instances"].get_fields(), {str(tmp_path / "found.pt")!r})
print(type(predictor.model).__name__, type(predictor.model.roi_heads).__name__)
print(get("crack", trust=True, store=store).custom_objects["scale"](8))
""",
    )
    assert lines[0].startswith("UntrustedModelError")
    assert "trained.arch.heads" in lines[0]
    assert lines[1:] == ["TravellingRCNN TravellingHeads", "4.0"]
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    want = predictor(picture())["instances"].get_fields()
    assert 0 < want["scores"].max() <= 0.5  # the custom heads ran
    assert torch.equal(found.pop("pred_boxes").tensor, want.pop("pred_boxes").tensor)
    assert found.keys() == want.keys()
    assert all(torch.equal(found[key], value) for key, value in want.items())


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
