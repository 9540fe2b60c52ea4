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
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from pipeline.errors import ModelExistsError, ModelNotFoundError
from pipeline.store import local
from pipeline.store.local import ModelStore
from pipeline.store.transfer import Wanted, export_model, take
from pipeline.types import Categories

ROOT = Path(__file__).parents[3]
WRITERS = 8
KEPT = ["crack:v0", "other:v1"]  # no operation below is about them
BEFORE = ["crack:v0", "crack:v1", "gone:v0", "gone:v1", "gone:v2", "other:v1"]


def save(store, tag, value=0.0):
    import torch

    return store.save(
        tag,
        config_yaml="A: 1",
        weights={"a": torch.full((2,), value)},
        categories=Categories(thing_names=("x",)),
    )


OPERATIONS = {
    "save": lambda store: save(store, "crack:v2"),
    "save-of-a-new-name": lambda store: save(store, "fresh:v1"),
    "import": lambda store: take(store, str(store.root.with_name("exported")), Wanted()),
    "import-of-an-archive": lambda store: take(
        store, str(store.root.with_name("exported.tar.xz")), Wanted()
    ),
    "delete": lambda store: store.delete("crack:v1"),
    "delete-all": lambda store: store.delete("gone"),
    "alias": lambda store: store.alias("crack:v1", "production"),
}
AFTER = {
    "save": [*BEFORE, "crack:v2"],
    "save-of-a-new-name": [*BEFORE, "fresh:v1"],
    "import": [*BEFORE, "crack:v9"],
    "import-of-an-archive": [*BEFORE, "crack:v9"],
    "delete": [tag for tag in BEFORE if tag != "crack:v1"],
    "delete-all": [tag for tag in BEFORE if not tag.startswith("gone")],
    "alias": BEFORE,
}


# What the script does. Its processes are forks, as to import torch for each would take minutes.


def forked(work):
    """Run something in another process; give its id."""
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
        sys.stdout.flush()
        os._exit(status)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tell(**what):
    os.write(1, json.dumps(what).encode() + b"\n")  # in one piece


def at_once(*works):
    """Start processes, then let all of them begin."""
    begin, begun = os.pipe()

    def waiting(work):
        os.close(begun)
        os.read(begin, 1)
        return work()

    children = [forked(lambda work=work: waiting(work)) for work in works]
    os.close(begun)
    return children


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
        if event == "open" and isinstance(args[0], (str, bytes)):
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
        # rmtree gives names alone, below the descriptor of a folder
        if writes and (str(args[0]).startswith(str(root)) or "/" not in str(args[0])):
            changes(event, *args[:2])

    def halfway(function):
        def written(first, second, *args, **kwargs):
            data, path = (first, second) if function is shutil.copyfile else (second, first)
            data = Path(data).read_bytes() if function is shutil.copyfile else data
            with Path(path).open("wb") as file:
                half = data[: len(data) // 2]
                file.write(half.encode() if isinstance(half, str) else half)
            changes("half of", path)
            return function(first, second, *args, **kwargs)

        return written

    def synced(descriptor, fsync=os.fsync):
        changes("os.fsync", Path(f"/proc/self/fd/{descriptor}").resolve())
        fsync(descriptor)

    os.fsync = synced
    Path.write_bytes = halfway(Path.write_bytes)
    Path.write_text = halfway(Path.write_text)
    shutil.copyfile = halfway(shutil.copyfile)
    sys.addaudithook(audit)


def killed(folder, name):
    """Leave a store for each point at which the operation was killed, and one for its end."""
    template = ModelStore(folder / "template" / "root")
    for tag in BEFORE:
        save(template, tag)
    template.alias("crack:v0", "production")
    elsewhere = ModelStore(folder / "elsewhere")
    new = save(elsewhere, "crack:v9")
    export_model(new, template.root.with_name("exported"), format="dir")
    export_model(new, template.root.with_name("exported.tar.xz"))
    for point in count():
        place = folder / f"{point:03}"
        shutil.copytree(template.root.parent, place)

        def work(point=point, root=place / "root"):
            die_at(point, root)
            OPERATIONS[name](ModelStore(root))

        status = ended(forked(work))
        tell(point=point, status=status)
        if status != -signal.SIGKILL:
            return


def same_version(folder, _):
    def work(value):
        try:
            save(ModelStore(folder), "crack:v1", float(value))
            tell(saved=value)
        except ModelExistsError as exc:
            tell(refused=str(exc))

    for child in at_once(*(lambda i=i: work(i) for i in range(WRITERS))):
        tell(status=ended(child))


def new_versions(folder, _):
    def work():
        tell(saved=save(ModelStore(folder), "crack").tag)

    for child in at_once(*([work] * WRITERS)):
        tell(status=ended(child))


def all_at_once(folder, _):
    """Save, delete, alias, list and prune, until who saves and deletes is through."""
    store = ModelStore(folder)
    save(store, "crack:v1")
    save(store, "crack:v2")
    over, working = os.pipe()

    def saves(name):
        for i in range(25):
            save(store, f"{name}:v{i}")
            store.delete(f"{name}:v{i}")

    def meanwhile(*todo):
        os.close(working)
        while not select.select([over], [], [], 0)[0]:
            for step in todo:
                step()

    def look():
        store.get("crack").verify()
        store.list("crack")

    children = at_once(
        lambda: saves("a"),
        lambda: saves("a2"),
        lambda: meanwhile(store.prune),
        lambda: meanwhile(
            look,
            lambda: store.alias("crack:v1", "production"),
            lambda: store.alias("crack:v2", "production"),
        ),
    )
    os.close(working)
    for child in children:
        tell(status=ended(child))


def signalled(folder, number):
    """Have the command line save a model, and be interrupted at several points."""
    import detectron2.modeling  # noqa: F401 - once for all
    import yaml

    from pipeline.store import architectures
    from pipeline.store.zoo import zoo_root

    shutil.copy(zoo_root() / "Base-RCNN-FPN.yaml", folder)
    heads = {"ROI_HEADS": {"NUM_CLASSES": 2}, "ROI_BOX_HEAD": {"FC_DIM": 16}}
    small = {"RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}, "FPN": {"OUT_CHANNELS": 8}, **heads}
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump({"_BASE_": "Base-RCNN-FPN.yaml", "MODEL": small}))
    points = [
        (architectures, "build"),
        (local, "write_weights"),
        (local, "seal"),
        (Path, "rename"),
        (local, "open_entry"),
        (local, "write_whole"),
    ]
    for owner, name in points:
        root = folder / name

        def work(owner=owner, name=name, root=root):
            function = getattr(owner, name)

            def interrupted(*args, **kwargs):
                os.kill(os.getpid(), int(number))
                return function(*args, **kwargs)

            setattr(owner, name, interrupted)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
            sys.argv = ["store", "--root", str(root), "save", "crack:v1", "--config", str(config)]
            sys.argv += ["--weights", "random", "--class-names", "a,b"]
            runpy.run_module("pipeline.store", run_name="__main__")

        tell(at=name, status=ended(forked(work)))


# The tests.


def script(what, folder, *arguments):
    folder.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",  # no thread but one, as all are forks
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, what.__name__, str(folder), *(arguments or [""])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture(autouse=True)
def no_bundled(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "BUNDLED", tmp_path / "bundled")


def hidden(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob(".*"))


def test_one_of_many_wins(tmp_path):
    from pipeline.store.weights import read_weights

    said, _ = script(same_version, tmp_path / "root")
    assert [line["status"] for line in said if "status" in line] == [0] * WRITERS
    refusals = [line["refused"] for line in said if "refused" in line]
    assert len(refusals) == WRITERS - 1
    assert all("has a version 'crack:v1' already" in text for text in refusals)
    (winner,) = (line["saved"] for line in said if "saved" in line)
    store = ModelStore(tmp_path / "root")
    (entry,) = store.list()
    entry.verify()
    assert read_weights(entry.path / "weights.safetensors")["a"].tolist() == [winner, winner]
    assert sorted(path.name for path in entry.path.parent.iterdir()) == ["latest", "v1"]
    assert hidden(store.root) == []


def test_many_versions_at_once(tmp_path):
    said, _ = script(new_versions, tmp_path / "root")
    assert [line["status"] for line in said if "status" in line] == [0] * WRITERS
    store = ModelStore(tmp_path / "root")
    entries = store.list()
    assert len(entries) == WRITERS
    assert sorted(entry.tag for entry in entries) == sorted(
        s["saved"] for s in said if "saved" in s
    )
    for entry in entries:
        entry.verify()
    assert store.get("crack").tag == max(entries, key=lambda entry: entry.info.created).tag
    assert hidden(store.root) == []


def test_all_at_once(tmp_path):
    said, errors = script(all_at_once, tmp_path / "root")
    assert [line["status"] for line in said] == [0] * 4, errors
    store = ModelStore(tmp_path / "root")
    assert [entry.tag for entry in store.list()] == ["crack:v1", "crack:v2"]
    assert hidden(store.root) == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_anywhere(tmp_path, name):
    said, errors = script(killed, tmp_path, name)
    statuses = [line["status"] for line in said if "status" in line]
    points = {line["point"]: line["at"] for line in said if "at" in line}
    assert statuses == [-signal.SIGKILL] * len(points) + [0], errors
    assert len(points) >= (4 if name == "alias" else 15)
    template = ModelStore(tmp_path / "template" / "root")
    digests = {entry.tag: entry.digest for entry in template.list()}
    for point in range(len(statuses)):
        where = f"{point}: {points.get(point, 'the end')}"
        store = ModelStore(tmp_path / f"{point:03}" / "root")
        entries = store.list()
        tags = [entry.tag for entry in entries]
        assert sorted(tags) == sorted(store.tags()), where  # none is damaged
        if name == "delete-all":
            assert set(AFTER[name]) <= set(tags) <= set(BEFORE), where
        else:
            assert sorted(tags) in (sorted(BEFORE), sorted(AFTER[name])), where
        for entry in entries:
            entry.verify()
            assert entry.digest == digests.get(entry.tag, entry.digest), where
        for tag in (*KEPT, "crack", "other", "crack:production"):
            store.get(tag).verify()
        removed = store.prune()
        assert store.prune() == [], where
        assert hidden(store.root) == [], where
        assert all(path.name.startswith(".") for path in removed), where
        assert sorted(entry.tag for entry in store.list()) == sorted(tags), where
        with suppress(ModelExistsError if "save" in name else ModelNotFoundError):
            OPERATIONS[name](store)
            assert sorted(tags) != sorted(AFTER[name]) or name in ("alias", "import"), where
        assert sorted(entry.tag for entry in store.list()) == sorted(AFTER[name]), where
        store.get("crack").verify()
        assert hidden(store.root) == [], where
    assert store.get("crack:production").tag == ("crack:v1" if name == "alias" else "crack:v0")


@pytest.mark.detectron2
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(tmp_path, number, status):
    said, errors = script(signalled, tmp_path, str(int(number)))
    assert [line["status"] for line in said] == [status] * len(said), errors
    assert "Traceback" not in errors
    for line in said:
        store = ModelStore(tmp_path / line["at"])
        tags = [entry.tag for entry in store.list()]
        assert tags == (
            [] if line["at"] in ("build", "write_weights", "seal", "rename") else ["crack:v1"]
        )
        for entry in store.list():
            entry.verify()
        files = [path for path in store.root.rglob("*") if path.is_file()]
        assert bool(files) == bool(tags)
        assert hidden(store.root) == []


if __name__ == "__main__":
    local.BUNDLED = Path("/nowhere")
    import safetensors.torch  # noqa: F401 - before all forks

    globals()[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
