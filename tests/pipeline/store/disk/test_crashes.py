"""Many processes at once, and processes that die: this file is also the script that they run."""

import json
import os
import runpy
import select
import shutil
import signal
import subprocess
import sys
import traceback
from itertools import count
from pathlib import Path

import pytest

from pipeline.errors import ModelExistsError, ModelNotFoundError
from pipeline.records import Categories
from pipeline.store import ModelStore
from pipeline.store.disk import lookup, writing
from pipeline.store.exchange.incoming import import_path
from pipeline.store.exchange.options import ImportOptions
from pipeline.store.exchange.outgoing import export_model

ROOT = Path(__file__).parents[4]
WRITERS = 8
GONE = {f"gone:v{i}" for i in range(5)}
BEFORE = {"crack:v0", "crack:v1", "other:v1"} | GONE


def save(store, tag, value=0.0):
    import torch

    return store.save(
        tag,
        config_yaml="A: 1",
        weights={"a": torch.full((2,), value)},
        categories=Categories(thing_names=("x",)),
    )


def beside(store, name):
    return str(store.root.with_name(name))


# what is done, and the tags that there are afterwards
OPERATIONS = {
    "save": (lambda store: save(store, "crack:v2"), BEFORE | {"crack:v2"}),
    "save a new name": (lambda store: save(store, "fresh:v1"), BEFORE | {"fresh:v1"}),
    "import": (
        lambda store: import_path(store, beside(store, "dir"), ImportOptions()),
        BEFORE | {"crack:v9"},
    ),
    "import an archive": (
        lambda store: import_path(store, beside(store, "a.tar.xz"), ImportOptions()),
        BEFORE | {"crack:v9"},
    ),
    "delete": (lambda store: store.delete("crack:v1"), BEFORE - {"crack:v1"}),
    "delete all": (lambda store: store.delete("gone"), BEFORE - GONE),
    "alias": (lambda store: store.alias("crack:v1", "production"), BEFORE),
}


# What the script does. All processes are forks, as to import torch in each would take minutes.


def forked(work):
    """Run something in another process; give its id."""
    sys.stderr.flush()
    if child := os.fork():
        return child
    status = 70
    try:
        status = work() or 0
    except SystemExit as exc:
        status = exc.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tell(**what):
    os.write(1, json.dumps(what).encode() + b"\n")  # in one piece


def at_once(*works):
    """Start processes, and let all of them begin."""
    begin, begun = os.pipe()

    def waiting(work):
        os.close(begun)
        os.read(begin, 1)
        return work()

    children = [forked(lambda work=work: waiting(work)) for work in works]
    os.close(begun)
    return children


def end(children):
    for child in children:
        tell(status=ended(child))


def die_at(point, root):
    """Have this process killed before its n-th change of the disk, or in the middle of a file."""
    left = point

    def changes(what, *paths):
        nonlocal left
        if left == 0:
            tell(point=point, at=f"{what} {' '.join(map(str, paths))}")
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def audit(event, args):
        if event == "open" and isinstance(args[0], str):
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
        # rmtree gives names alone, below the descriptor of a folder
        if writes and (str(args[0]).startswith(str(root)) or "/" not in str(args[0])):
            changes(event, *args[:2])

    def torn(write, path_and_data):
        def halfway(*args, **kwargs):
            path, data = path_and_data(*args)
            with path.open("wb") as file:
                file.write(data[: len(data) // 2])
            changes("half of", path)
            return write(*args, **kwargs)

        return halfway

    def synced(descriptor, fsync=os.fsync):
        changes("os.fsync", Path(f"/proc/self/fd/{descriptor}").resolve())
        fsync(descriptor)

    os.fsync = synced
    Path.write_bytes = torn(Path.write_bytes, lambda path, data: (path, data))
    Path.write_text = torn(Path.write_text, lambda path, text: (path, text.encode()))
    shutil.copyfile = torn(shutil.copyfile, lambda file, path: (path, file.read_bytes()))
    sys.addaudithook(audit)


def killed(folder, operation):
    """Leave a store for each point at which the operation was killed, and one for its end."""
    template = ModelStore(folder / "template" / "root")
    for tag in sorted(BEFORE):
        save(template, tag)
    template.alias("crack:v0", "production")
    new = save(ModelStore(folder / "elsewhere"), "crack:v9")
    export_model(new, beside(template, "dir"), format="dir")
    export_model(new, beside(template, "a.tar.xz"))
    for point in count():
        place = folder / f"{point:03}"
        shutil.copytree(template.root.parent, place)

        def work(point=point, root=place / "root"):
            die_at(point, root)
            OPERATIONS[operation][0](ModelStore(root))

        status = ended(forked(work))
        tell(status=status)
        if status != -signal.SIGKILL:
            return


def one_version(folder):
    def work(value):
        try:
            save(ModelStore(folder), "crack:v1", float(value))
            tell(saved=value)
        except ModelExistsError as exc:
            tell(refused=str(exc))

    end(at_once(*(lambda i=i: work(i) for i in range(WRITERS))))


def new_versions(folder):
    end(at_once(*[lambda: tell(saved=save(ModelStore(folder), "crack").tag)] * WRITERS))


def everything(folder):
    """Save, delete, alias, list and prune, until who saves and deletes is through."""
    store = ModelStore(folder)
    save(store, "crack:v1")
    save(store, "crack:v2")
    over, working = os.pipe()

    def saves(name):
        for i in range(12):
            save(store, f"{name}:v{i}")
            store.delete(f"{name}:v{i}")

    def meanwhile(*todo):
        os.close(working)
        while not select.select([over], [], [], 0)[0]:
            for step in todo:
                step()

    children = at_once(
        lambda: saves("a"),
        lambda: saves("b"),
        lambda: meanwhile(store.prune),
        lambda: meanwhile(
            lambda: store.get("crack").verify(),
            lambda: store.list("crack"),
            lambda: store.alias("crack:v1", "production"),
            lambda: store.alias("crack:v2", "production"),
        ),
    )
    os.close(working)
    end(children)


def interrupted(folder, number):
    """Have the command line save a model, and signal it at several points."""
    import yaml

    from pipeline.models import architectures
    from pipeline.models.zoo import zoo_root

    shutil.copy(zoo_root() / "Base-RCNN-FPN.yaml", folder)
    heads = {"ROI_HEADS": {"NUM_CLASSES": 2}, "ROI_BOX_HEAD": {"FC_DIM": 16}}
    small = {"RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}, "FPN": {"OUT_CHANNELS": 8}, **heads}
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump({"_BASE_": "Base-RCNN-FPN.yaml", "MODEL": small}))
    points = {
        "build": architectures,
        "write_weights": writing,
        "seal": writing,
        "rename": Path,
        "open_version": writing,
        "write_whole": writing,
    }
    for name, owner in points.items():

        def work(name=name, owner=owner):
            function = getattr(owner, name)

            def signalled(*args, **kwargs):
                os.kill(os.getpid(), number)
                return function(*args, **kwargs)

            setattr(owner, name, signalled)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
            root = str(folder / name)
            sys.argv = ["store", "--root", root, "save", "crack:v1", "--config", str(config)]
            sys.argv += ["--weights", "random", "--class-names", "a,b"]
            runpy.run_module("pipeline.store", run_name="__main__")

        tell(at=name, status=ended(forked(work)))


RACES = {"one version": one_version, "new versions": new_versions, "everything": everything}
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
PARTS = {
    **RACES,
    **{name: lambda folder, name=name: killed(folder, name) for name in OPERATIONS},
    **{n.name: lambda folder, n=n: interrupted(folder, n) for n in SIGNALS},
}


def script(folder, parts):
    """Do each part in a process and a folder of its own."""
    if set(parts) & {number.name for number in SIGNALS}:
        import detectron2.modeling  # noqa: F401 - once, before all forks
    import safetensors.torch  # noqa: F401

    lookup.BUNDLED = folder / "bundled"
    for part in parts:
        place = folder / part
        place.mkdir()

        def work(part=part, place=place):
            for number, suffix in enumerate((".out", ".err"), start=1):
                os.dup2(os.open(f"{place}{suffix}", os.O_WRONLY | os.O_CREAT), number)
            PARTS[part](place)

        ended(forked(work))


# The tests.


def scripted(folder, parts):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",  # no thread but one, as all are forks
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, str(folder), *parts]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            assert process.wait(timeout=100) == 0
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # its forks too
            raise
    return folder


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    return scripted(tmp_path_factory.mktemp("light"), [*RACES, *OPERATIONS])


@pytest.fixture(scope="module")
def signalled(tmp_path_factory):
    return scripted(tmp_path_factory.mktemp("signalled"), [number.name for number in SIGNALS])


@pytest.fixture(autouse=True)
def no_bundled(monkeypatch, tmp_path):
    monkeypatch.setattr(lookup, "BUNDLED", tmp_path / "bundled")


def said_by(folder, part, key):
    lines = (folder / f"{part}.out").read_text().splitlines()
    return [line[key] for line in map(json.loads, lines) if key in line]


def errors_of(folder, part):
    return (folder / f"{part}.err").read_text()


def hidden(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob(".*"))


def tags_of(store):
    return {entry.tag for entry in store.list()}


def test_one_of_many_wins(light):
    from pipeline.models.weights.weights import read_weights

    part = "one version"
    assert said_by(light, part, "status") == [0] * WRITERS, errors_of(light, part)
    refused = said_by(light, part, "refused")
    assert len(refused) == WRITERS - 1
    assert all("has a version 'crack:v1' already" in text for text in refused)
    (winner,) = said_by(light, part, "saved")
    store = ModelStore(light / part)
    (entry,) = store.list()
    entry.verify()
    assert read_weights(entry.path / "weights.safetensors")["a"].tolist() == [winner, winner]
    assert sorted(path.name for path in entry.path.parent.iterdir()) == ["latest", "v1"]


def test_many_versions_at_once(light):
    part = "new versions"
    assert said_by(light, part, "status") == [0] * WRITERS, errors_of(light, part)
    store = ModelStore(light / part)
    entries = store.list()
    assert len(entries) == WRITERS
    assert tags_of(store) == set(said_by(light, part, "saved"))
    for entry in entries:
        entry.verify()
    assert store.get("crack").tag == max(entries, key=lambda entry: entry.info.created).tag
    assert hidden(store.root) == []


def test_everything_at_once(light):
    part = "everything"
    assert said_by(light, part, "status") == [0] * 4, errors_of(light, part)
    store = ModelStore(light / part)
    assert tags_of(store) == {"crack:v1", "crack:v2"}
    assert hidden(store.root) == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_anywhere(light, operation):
    repeat, after = OPERATIONS[operation]
    folder = light / operation
    points = said_by(light, operation, "at")
    killed = [-signal.SIGKILL] * len(points)
    assert said_by(light, operation, "status") == [*killed, 0], errors_of(light, operation)
    originals = ModelStore(folder / "template" / "root").list()
    digests = {entry.tag: entry.digest for entry in originals}
    for point, where in enumerate([*points, "the end"]):
        store = ModelStore(folder / f"{point:03}" / "root")
        entries = store.list()
        tags = {entry.tag for entry in entries}
        assert tags == set(store.tags()), where  # none is damaged
        assert BEFORE & after <= tags <= BEFORE | after, where
        assert tags in (BEFORE, after) or operation == "delete all", where
        for entry in entries:
            entry.verify()
            assert entry.digest == digests.get(entry.tag, entry.digest), where
        for tag in ("crack", "crack:production", "other"):
            store.get(tag).verify()
        removed = store.prune()
        assert all(path.name.startswith(".") for path in removed), where
        assert store.prune() == hidden(store.root) == [], where
        assert tags_of(store) == tags, where
        if tags == after and operation.startswith("save"):
            with pytest.raises(ModelExistsError):
                repeat(store)
        elif tags == after and operation.startswith("delete"):
            with pytest.raises(ModelNotFoundError):
                repeat(store)
        else:
            repeat(store)
        assert tags_of(store) == after, where
        assert hidden(store.root) == [], where
        store.get("crack").verify()
        version = "v1" if operation == "alias" else "v0"
        assert store.aliases("crack") == {"production": version}, where


def test_points_are_many(light):
    points = {name: len(said_by(light, name, "at")) for name in OPERATIONS}
    few = {"delete": 10, "alias": 4}
    assert all(points[name] >= few.get(name, 20) for name in points), points


@pytest.mark.detectron2
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_interrupted(signalled, number):
    part = number.name
    errors = errors_of(signalled, part)
    places = said_by(signalled, part, "at")
    assert said_by(signalled, part, "status") == [SIGNALS[number]] * len(places), errors
    assert len(places) == 6
    assert "Traceback" not in errors
    for place in places:
        store = ModelStore(signalled / part / place)
        entries = store.list()
        # it is in its place from the rename on, and whole
        assert len(entries) == (place == "open_entry"), place
        for entry in entries:
            entry.verify()
        assert entries or not [path for path in store.root.rglob("*") if path.is_file()], place
        assert hidden(store.root) == [], place


if __name__ == "__main__":
    script(Path(sys.argv[1]), sys.argv[2:])
