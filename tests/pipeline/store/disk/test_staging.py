import fcntl
import os
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pipeline.store.disk.staging import hide, locked, remove_leftovers, staged


class BrokenError(Exception):
    pass


@contextmanager
def held(folder):
    """Hold a folder's lock as another process would: flock goes by descriptor, not by process."""
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
    os.close(descriptor)


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "root" / "crack" / "v1"
    folder.mkdir(parents=True)
    (folder / "model.yaml").touch()
    (folder.parent / "latest").write_text("v1")
    return folder


def dead(place):
    """What a process that was killed leaves: a folder with content, or part of a file."""
    if place.name.endswith(".part"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"half")
    else:
        (place / "sub").mkdir(parents=True)
        (place / "sub" / "weights.safetensors").touch()
    return place


def test_staged_is_there_while_needed_and_gone_then(tmp_path):
    with staged(tmp_path / "a" / "b") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").touch()
        assert folder.parent == tmp_path / "a" / "b"
    assert tree(tmp_path) == ["a", "a/b"]


@pytest.mark.parametrize("error", [BrokenError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_staged_leaves_nothing_on_an_error(tmp_path, error):
    with suppress(error), staged(tmp_path) as folder:
        (folder / "file").touch()
        raise error
    assert tree(tmp_path) == []


def test_staged_stays_where_it_was_renamed_to(tmp_path):
    with staged(tmp_path) as folder:
        (folder / "file").touch()
        folder.rename(tmp_path / "v1")
    assert tree(tmp_path) == ["v1", "v1/file"]
    with locked(tmp_path / "v1", wait=False):  # nobody holds it any more
        pass


def test_staged_in_a_renamed_folder_is_gone_too(tmp_path):
    with staged(tmp_path) as folder:
        (folder / "model").mkdir()
        (folder / "rest").touch()
        (folder / "model").rename(tmp_path / "v1")
    assert tree(tmp_path) == ["v1"]


def test_staged_folders_differ(tmp_path):
    with staged(tmp_path) as a, staged(tmp_path) as b, staged(a / "sub") as c:
        assert len({a, b, c}) == 3
        assert tree(tmp_path) == sorted([a.name, b.name, f"{a.name}/sub", f"{a.name}/sub/{c.name}"])
    assert tree(tmp_path) == []


def test_staged_is_locked(tmp_path):
    with staged(tmp_path) as folder:
        with pytest.raises(BlockingIOError), locked(folder, wait=False):
            pass
        with locked(tmp_path, wait=False):  # others may stage beside it
            pass


def test_no_descriptor_is_left_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for error in (None, BrokenError):
        with pytest.raises(BrokenError), staged(tmp_path), locked(tmp_path):
            raise error or BrokenError
        remove_leftovers(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_locked_waits_for_its_turn(tmp_path):
    order = []

    def second():
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        with pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
            pass
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_locked_is_free_after_an_error(tmp_path):
    with pytest.raises(BrokenError), locked(tmp_path):
        raise BrokenError
    with locked(tmp_path, wait=False):
        pass


def test_removed_is_out_of_sight_but_whole(model):
    hidden = hide(model)
    assert not model.exists()
    assert tree(hidden) == ["model.yaml"]
    assert hidden.parent == model.parent


@pytest.mark.parametrize(
    "place",
    [
        ".staging-1",
        "crack/.staging-1",
        "crack/.deleting-1",
        "crack/.0123456789abcdef.99999998.part",
        ".downloads/.0.99999999.part",
        ".downloads/host/deep/path/.0.99999999.part",
        ".selftests/.0.99999999.part",
    ],
)
def test_left_over_removes_what_is_dead_and_nothing_else(model, place):
    root = model.parents[1]
    kept = {
        ".downloads/host/x.pkl", ".downloads/host/x.pkl.sha256", ".selftests/0", "latest.part.txt",
        "crack/staging-1", "crack/deleting-1", "crack/.staging", "crack/v1/part", "crack/.other/x",
    }  # fmt: skip
    for name in kept:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    before = tree(root)
    path = dead(root / place)
    assert remove_leftovers(root) == [path]
    assert tree(root) == before
    assert remove_leftovers(root) == []


def test_left_over_removes_all_at_once(model):
    root = model.parents[1]
    before = tree(root)
    names = (
        ".staging-1",
        "crack/.staging-1",
        "crack/.staging-2",
        "crack/.deleting-1",
        "crack/.a.part",
    )
    places = [dead(root / name) for name in names]
    assert sorted(remove_leftovers(root)) == sorted(places)
    assert tree(root) == before


@pytest.mark.parametrize("name", [".staging-1", "crack/.staging-1", "crack/.deleting-1"])
def test_left_over_leaves_what_is_in_use(model, name):
    root = model.parents[1]
    used, other = dead(root / name), dead(root / f"{name}0")
    with held(used):
        assert remove_leftovers(root) == [other]
        assert (used / "sub" / "weights.safetensors").exists()
    assert remove_leftovers(root) == [used]


def test_left_over_leaves_the_parts_of_a_locked_folder(model):
    part = dead(model.parent / ".0.99999999.part")
    with held(model.parent):
        assert remove_leftovers(model.parents[1]) == []
        assert part.exists()
    assert remove_leftovers(model.parents[1]) == [part]


def test_left_over_leaves_what_lies_in_a_staged_folder(model):
    with staged(model.parents[1]) as folder:
        part = dead(folder / ".0.99999999.part")
        assert remove_leftovers(model.parents[1]) == []
        assert part.exists()


def test_left_over_of_a_process_that_lives_then_dies(model):
    root = model.parents[1]
    code = f"""
import pathlib, sys
from pipeline.store.disk.staging import staged
with staged(pathlib.Path({str(model.parent)!r})) as folder:
    (folder / "weights").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[4],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        folder = process.stdout.readline().strip()
        assert remove_leftovers(root) == []
        assert Path(folder).exists()
        process.kill()
        process.wait()
    assert [str(path) for path in remove_leftovers(root)] == [folder]
    assert model.exists()


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: None], ids=["empty", "missing"])
def test_left_over_without_a_store(tmp_path, make):
    make(tmp_path / "root")
    assert remove_leftovers(tmp_path / "root") == []


def test_left_over_where_a_name_is_linked(model, tmp_path):
    home = model.parent.rename(tmp_path / "other disk")
    model.parent.symlink_to(home)
    place = dead(home / ".staging-1")
    assert remove_leftovers(model.parents[1]) == [model.parent / place.name]
    assert (model / "model.yaml").exists()


def test_left_over_while_folders_come_and_go(model):
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            with staged(model.parent) as folder:
                (folder / "a" / "b" / "c").mkdir(parents=True)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(300):
            assert remove_leftovers(model.parents[1]) == []
    finally:
        stop.set()
        thread.join()
    assert tree(model.parent) == ["latest", "v1", "v1/model.yaml"]
