from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from runners.watch.after import After
from runners.watch.inbox import Inbox
from runners.watch.versions import Arrival


def arrival(root, asset_id):
    path = root / asset_id
    status = path.stat()
    return Arrival(asset_id, path, status.st_size, status.st_mtime_ns)


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


@pytest.mark.parametrize(
    ("action", "ok", "left"),
    [
        ("keep", True, {"a/x.jpg": b"image", "a/x.jpg.done": b""}),
        ("keep", False, {"a/x.jpg": b"image", "a/x.jpg.done": b""}),
        ("move", True, {"done/a/x.jpg": b"image", "done/a/x.jpg.done": b""}),
        ("move", False, {"failed/a/x.jpg": b"image", "failed/a/x.jpg.done": b""}),
        ("delete", True, {}),
        ("delete", False, {"failed/a/x.jpg": b"image", "failed/a/x.jpg.done": b""}),
    ],
)
def test_actions(action, ok, left, root, put):
    put("a/x.jpg")
    put("a/x.jpg.done", b"")
    after = After(action, root, marker=".done")
    where = after(arrival(root, "a/x.jpg"), ok)
    after.sync()
    assert tree(root) == left
    assert where == (root / min(left) if action != "keep" and left else None)


def test_trees_elsewhere(root, put, tmp_path):
    after = After("move", root, tmp_path / "d", tmp_path / "f" / "g")
    put("x.jpg")
    put("y.jpg")
    assert after(arrival(root, "x.jpg"), True) == tmp_path / "d" / "x.jpg"
    assert after(arrival(root, "y.jpg"), False) == tmp_path / "f" / "g" / "y.jpg"
    assert tree(root) == {}


LONG = "n" * 251 + ".jpg"


@pytest.mark.parametrize(
    ("name", "second", "third"),
    [
        ("x.jpg", "x~2.jpg", "x~3.jpg"),
        ("a.b/x", "a.b/x~2", "a.b/x~3"),
        (os.fsdecode(b"\xff.jpg"), os.fsdecode(b"\xff~2.jpg"), os.fsdecode(b"\xff~3.jpg")),
        (LONG, LONG[:249] + "~2.jpg", LONG[:249] + "~3.jpg"),
    ],
)
@pytest.mark.parametrize("links", [True, False], ids=["links", "no hard links"])
def test_nothing_is_overwritten(name, second, third, links, root, put, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", _fails(errno.EPERM))
    after = After("move", root)
    for content in (b"1", b"2", b"3"):
        put(name, content)
        after(arrival(root, name), True)
    assert tree(root / "done") == {name: b"1", second: b"2", third: b"3"}
    assert not (root / name).exists()


def _fails(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_folder_of_the_same_name_is_in_the_way(root, put):
    put("done/x.jpg/y.jpg")
    put("x.jpg")
    assert After("move", root)(arrival(root, "x.jpg"), True) == root / "done" / "x~2.jpg"


@pytest.mark.parametrize("action", ["move", "delete"])
def test_a_newer_version_stays(action, root, put):
    put("x.jpg", b"old", mtime_s=1)
    old = arrival(root, "x.jpg")
    put("x.jpg", b"new", mtime_s=2)
    assert After(action, root)(old, True) is None
    assert tree(root) == {"x.jpg": b"new"}


def test_a_newer_version_that_comes_while_the_old_one_is_moved_stays(root, put, monkeypatch):
    put("x.jpg", b"old", mtime_s=1)
    real = os.link

    def link(source, target, **kwargs):
        real(source, target, **kwargs)
        (root / "new").write_bytes(b"new")
        (root / "new").rename(root / "x.jpg")

    monkeypatch.setattr(os, "link", link)
    After("move", root)(arrival(root, "x.jpg"), True)
    assert tree(root) == {"x.jpg": b"new", "done/x.jpg": b"old"}


@pytest.mark.parametrize("action", ["move", "delete"])
def test_what_has_gone_is_no_error(action, root, put):
    put("x.jpg")
    gone = arrival(root, "x.jpg")
    gone.path.unlink()
    assert After(action, root)(gone, True) is None


def _link_within(folder):
    """Link files of this folder only, as if it were a file system of its own."""
    real = os.link

    def link(source, target):
        if Path(source).parent != folder:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    return link


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("action", ["move", "delete"])
def test_of_a_link_the_link_itself_goes(action, relative, root, put, tmp_path):
    target = tmp_path / "original.jpg"
    target.write_bytes(b"image")
    (root / "a").mkdir()
    (root / "a" / "x.jpg").symlink_to("../../original.jpg" if relative else target)
    where = After(action, root)(arrival(root, "a/x.jpg"), True)
    assert not (root / "a" / "x.jpg").is_symlink()
    assert target.read_bytes() == b"image"
    if where is not None:
        assert where.is_symlink()
        assert where.read_bytes() == b"image", "it leads where it led"


def test_another_file_system(root, put, monkeypatch):
    path = put("x.jpg", b"1" * 100_000, mtime_s=7.5)
    path.chmod(0o640)
    put("done/x.jpg", b"2" * 100_000, mtime_s=7.5)
    monkeypatch.setattr(os, "link", _link_within(root / "done"))
    where = After("move", root)(arrival(root, "x.jpg"), True)
    assert tree(root) == {"done/x.jpg": b"2" * 100_000, "done/x~2.jpg": b"1" * 100_000}
    status = where.stat()
    assert (status.st_mtime_ns, status.st_mode & 0o777) == (7_500_000_000, 0o640)


@pytest.mark.parametrize(
    ("call", "number", "message"),
    [
        ("link", errno.EACCES, "no permission"),
        ("link", errno.EROFS, "read-only file system"),
        ("mkdir", errno.ENOSPC, "no space left on device"),
        ("unlink", errno.EACCES, "no permission"),
    ],
)
def test_an_error_is_one_sentence_and_loses_nothing(call, number, message, root, put, monkeypatch):
    put("sub/x.jpg")
    after = After("move", root)
    with monkeypatch.context() as patch:
        patch.setattr(Path if call in ("mkdir", "unlink") else os, call, _fails(number))
        with pytest.raises(OutputError) as caught:
            after(arrival(root, "sub/x.jpg"), True)
    assert str(caught.value) == f"cannot move {root}/sub/x.jpg to {root}/done: {message}"
    assert (root / "sub/x.jpg").read_bytes() == b"image"
    after(arrival(root, "sub/x.jpg"), True)
    assert tree(root) == {"done/sub/x.jpg": b"image"}


def test_a_full_disk_leaves_no_piece_of_a_copy(root, put, monkeypatch):
    put("x.jpg")
    monkeypatch.setattr(os, "link", _fails(errno.EXDEV))
    monkeypatch.setattr("runners.watch.after.shutil.copyfileobj", _fails(errno.ENOSPC))
    with pytest.raises(OutputError, match="no space left on device"):
        After("move", root)(arrival(root, "x.jpg"), True)
    assert tree(root) == {"x.jpg": b"image"}


def test_a_file_where_a_folder_should_be(root, put):
    put("a/x.jpg")
    put("done/a")
    with pytest.raises(OutputError, match="done/a is not a folder"):
        After("move", root)(arrival(root, "a/x.jpg"), True)
    assert (root / "a/x.jpg").exists()


def test_each_folder_is_synced_once_for_many_files(root, put, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    after = After("move", root)
    for i in range(10):
        put(f"a/{i}.jpg")
        after(arrival(root, f"a/{i}.jpg"), True)
    monkeypatch.setattr(os, "fsync", fsync)
    after.sync()
    assert sorted(synced) == [root, root / "a", root / "done", root / "done/a"]
    after.sync()
    assert len(synced) == 4


def test_what_is_moved_away_is_not_found_again(root, put, clock, settled):
    inbox = Inbox(root, leave_out=(root / "done",), clock=clock)
    put("x.jpg")
    (found,) = settled(inbox)
    After("move", root)(found, True)
    assert settled(inbox) == []


KILLED = """
import errno, os, shutil, signal, sys
from pathlib import Path
from runners.watch.after import After
from runners.watch.versions import Arrival

STEPS = ("os.link", "os.remove", "os.rename", "os.mkdir", "os.symlink", "shutil.copystat")
base, kind = Path(sys.argv[1]), sys.argv[2]

def hook(event, args):
    global left
    if event in STEPS:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

def exdev(source, target, link=os.link, **kwargs):
    if Path(source).suffix != ".part":
        raise OSError(errno.EXDEV, "cross-device")
    link(source, target, **kwargs)

n, status = 0, 1
while status:
    root = base / str(n)
    root.mkdir()
    (root / "x.jpg").write_bytes(b"image")
    if kind == "link":
        (root / "x.jpg").rename(root / "original")
        (root / "x.jpg").symlink_to("original")
    (root / "x.jpg.done").touch()
    child = os.fork()
    if child == 0:
        left = n
        if kind == "copy":
            os.link = exdev
        sys.addaudithook(hook)
        stat = (root / "x.jpg").stat()
        After("move", root, marker=".done")(
            Arrival("x.jpg", root / "x.jpg", stat.st_size, stat.st_mtime_ns), True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    n += 1
"""


@pytest.mark.parametrize("kind", ["file", "link", "copy"])
def test_killed_at_any_step_it_can_be_repeated(kind, tmp_path, monkeypatch):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", KILLED, str(tmp_path), kind]
    subprocess.run(command, check=True, env=environment, timeout=100)
    roots = sorted(tmp_path.iterdir())
    assert len(roots) > 4
    for root in roots:
        source, target = root / "x.jpg", root / "done" / "x.jpg"
        assert b"image" in [path.read_bytes() for path in (source, target) if path.exists()]
        if source.exists():
            with monkeypatch.context() as patch:
                if kind == "copy":
                    patch.setattr(os, "link", _link_within(root / "done"))
                After("move", root, marker=".done")(arrival(root, "x.jpg"), True)
        left = {name: content for name, content in tree(root).items() if name != "original"}
        assert left == {"done/x.jpg": b"image", "done/x.jpg.done": b""}
