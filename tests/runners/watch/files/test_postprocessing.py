from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from runners.watch.files import claims, directories, transfer
from runners.watch.files.claims import FOLDER, ProcessedFile
from runners.watch.files.postprocessing import PostProcessing
from runners.watch.inbox.inbox import Inbox
from runners.watch.inbox.versions import Arrival
from runners.watch.inbox.writers import WriterCheck
from runners.watch.schedule import Schedule


def arrival(root, name):
    path = root / name
    status = path.stat()
    return Arrival(name, path, status.st_size, status.st_mtime_ns, status.st_ino)


def processed(root, name, ok=True, asset_id=None):
    sha256 = hashlib.sha256((root / name).read_bytes()).hexdigest()
    return ProcessedFile(asset_id or name, arrival(root, name), ok, sha256)


def settle(after, *files):
    """Post-process files as a watch does; return where each file is now."""
    claimed = [file for file in files if after.claim(file)]
    unchanged, _ = after.verify(claimed)
    places = [after.apply(file) for file in unchanged]
    after.sync()
    return places


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


@pytest.mark.parametrize(
    ("action", "ok", "left"),
    [
        ("move", True, {"done/a/x.jpg": b"image", "done/a/x.jpg.done": b"ok"}),
        ("move", False, {"failed/a/x.jpg": b"image", "failed/a/x.jpg.done": b"ok"}),
        ("delete", True, {}),
        ("delete", False, {"failed/a/x.jpg": b"image", "failed/a/x.jpg.done": b"ok"}),
    ],
)
def test_actions(action, ok, left, root, put):
    put("a/x.jpg")
    put("a/x.jpg.done", b"ok")
    after = PostProcessing(action, root, marker=".done")
    assert settle(after, processed(root, "a/x.jpg", ok)) == [root / min(left) if left else None]
    assert tree(root) == left
    assert not (root / "a" / FOLDER).exists()


def test_trees_elsewhere(root, put, tmp_path):
    after = PostProcessing("move", root, tmp_path / "d", tmp_path / "f" / "g")
    put("x.jpg")
    put("y.jpg")
    files = processed(root, "x.jpg"), processed(root, "y.jpg", False)
    assert settle(after, *files) == [tmp_path / "d" / "x.jpg", tmp_path / "f" / "g" / "y.jpg"]
    assert tree(root) == {}


LONG = "n" * 251 + ".jpg"


@pytest.fixture(params=["renameat2", "links", "neither"])
def file_system(request, monkeypatch):
    """File systems that can rename without replacing, that have hard links, and with neither."""
    if request.param != "renameat2":
        monkeypatch.setattr(directories, "_renameat2", lambda: None)
    if request.param == "neither":
        monkeypatch.setattr(os, "link", fails(errno.EPERM))


@pytest.mark.parametrize(
    ("name", "second", "third"),
    [
        ("x.jpg", "x~2.jpg", "x~3.jpg"),
        ("a.b/x", "a.b/x~2", "a.b/x~3"),
        (os.fsdecode(b"\xff.jpg"), os.fsdecode(b"\xff~2.jpg"), os.fsdecode(b"\xff~3.jpg")),
        (LONG, LONG[:249] + "~2.jpg", LONG[:249] + "~3.jpg"),
    ],
)
@pytest.mark.usefixtures("file_system")
def test_nothing_is_overwritten(name, second, third, root, put):
    after = PostProcessing("move", root)
    for content in (b"1", b"2", b"3"):
        put(name, content)
        settle(after, processed(root, name))
    assert tree(root / "done") == {name: b"1", second: b"2", third: b"3"}
    assert not (root / name).exists()


def test_the_same_content_is_not_kept_twice(root, put):
    after = PostProcessing("move", root)
    for mtime_s in (1, 2):
        put("x.jpg", mtime_s=mtime_s)
        assert settle(after, processed(root, "x.jpg")) == [root / "done" / "x.jpg"]
    assert tree(root) == {"done/x.jpg": b"image"}


def fails(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_folder_of_the_same_name_is_in_the_way(root, put):
    put("done/x.jpg/y.jpg")
    put("x.jpg")
    assert settle(PostProcessing("move", root), processed(root, "x.jpg")) == [
        root / "done" / "x~2.jpg"
    ]


def append(path):
    with path.open("ab") as file:
        file.write(b" and more")


def write_with_the_same_time(path):
    status = path.stat()
    path.write_bytes(b"IMAGE")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_it(path):
    path.with_name("new").write_bytes(b"other")
    path.with_name("new").rename(path)


@pytest.mark.parametrize("ok", [True, False])
@pytest.mark.parametrize("action", ["move", "delete"])
@pytest.mark.parametrize("change", [append, write_with_the_same_time, replace_it])
@pytest.mark.parametrize("when", ["before", "claimed"])
def test_what_is_not_as_it_was_decoded_stays(when, change, action, ok, root, put, monkeypatch):
    """Before the claim, and through another name or handle after it."""
    path = put("sub/x.jpg")
    file = processed(root, "sub/x.jpg", ok)
    after = PostProcessing(action, root)
    if when == "before":
        change(path)
        changed = path.read_bytes()
        assert settle(after, file) == []
    else:
        assert after.claim(file)
        private = path.parent / FOLDER / "x.jpg"
        change(private)
        changed = private.read_bytes()
        assert after.verify([file]) == ([], [file])
    assert changed != b"image"
    assert tree(root) == {"sub/x.jpg": changed}


@pytest.mark.parametrize("action", ["move", "delete"])
@pytest.mark.parametrize("lease", [True, False], ids=["lease", "/proc"])
def test_what_is_open_for_writing_stays(lease, action, root, put, monkeypatch):
    if not lease:
        monkeypatch.setattr("runners.watch.inbox.writers._by_lease", lambda descriptor: None)
    path = put("x.jpg")
    file, after = processed(root, "x.jpg"), PostProcessing(action, root)
    with path.open("ab") as writer:
        assert settle(after, file) == []
        assert tree(root) == {"x.jpg": b"image"}
        writer.write(b" and more")
    assert tree(root) == {"x.jpg": b"image and more"}
    with path.open("rb"):  # readers do no harm
        assert len(settle(after, processed(root, "x.jpg"))) == 1


def test_what_is_put_back_is_put_over_nothing(root, put):
    path = put("x.jpg")
    put("x.jpg.done", b"")
    file, after = processed(root, "x.jpg"), PostProcessing("move", root, marker=".done")
    assert after.claim(file)
    append(path.parent / FOLDER / "x.jpg")
    put("x.jpg", b"newer")
    assert after.verify([file]) == ([], [file])
    assert tree(root) == {
        "x.jpg": b"newer",
        "x~2.jpg": b"image and more",
        "x~2.jpg.done": b"",
    }


def test_what_was_never_read_is_not_deleted(root, put):
    put("x.jpg")
    put("y.jpg")
    after = PostProcessing("delete", root)
    unread = [
        ProcessedFile(name, arrival(root, name), ok, None)
        for name, ok in (("x.jpg", True), ("y.jpg", False))
    ]
    settle(after, *unread)
    assert tree(root) == {"x.jpg": b"image", "failed/y.jpg": b"image"}


@pytest.mark.parametrize("action", ["move", "delete"])
def test_what_has_gone_is_no_error(action, root, put):
    put("x.jpg")
    gone = processed(root, "x.jpg")
    gone.arrival.path.unlink()
    assert settle(PostProcessing(action, root), gone) == []


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("action", ["move", "delete"])
def test_of_a_link_the_link_itself_goes(action, relative, root, put, tmp_path):
    target = tmp_path / "original.jpg"
    target.write_bytes(b"image")
    (root / "a").mkdir()
    (root / "a" / "x.jpg").symlink_to("../../original.jpg" if relative else target)
    (where,) = settle(PostProcessing(action, root), processed(root, "a/x.jpg"))
    assert not (root / "a" / "x.jpg").is_symlink()
    assert target.read_bytes() == b"image"
    if where is not None:
        assert where.is_symlink()
        assert where.read_bytes() == b"image", "it leads to the same file"


@pytest.mark.parametrize("action", ["move", "delete"])
@pytest.mark.parametrize("ok", [True, False])
@pytest.mark.parametrize("when", ["before", "between"])
def test_no_linked_folder_is_followed(when, ok, action, root, put, tmp_path, monkeypatch):
    """A folder is replaced by a link to a folder that holds the same file."""
    put("sub/deep/x.jpg", mtime_s=7)
    victim = tmp_path / "victim"
    victim.mkdir()
    file, after = processed(root, "sub/deep/x.jpg", ok), PostProcessing(action, root)
    claim = after.claims.claim

    def swap():
        (root / "sub/deep/x.jpg").rename(victim / "x.jpg")
        (root / "sub/deep").rmdir()
        (root / "sub/deep").symlink_to(victim)

    def swapped(file):
        swap()
        return claim(file)

    if when == "before":
        swap()
    else:
        monkeypatch.setattr(after.claims, "claim", swapped)
    assert settle(after, file) == []
    assert tree(victim) == {"x.jpg": b"image"}


@pytest.mark.parametrize("planted", ["done", "done/sub", "failed", "failed/sub", f"sub/{FOLDER}"])
@pytest.mark.parametrize("action", ["move", "delete"])
def test_no_planted_link_is_followed(action, planted, root, put, tmp_path):
    put("sub/x.jpg", b"1")
    put("sub/y.jpg", b"2")
    victim = tmp_path / "victim"
    victim.mkdir()
    (root / planted).parent.mkdir(exist_ok=True)
    (root / planted).symlink_to(victim)
    after = PostProcessing(action, root)
    said = []
    for name, ok in (("sub/x.jpg", True), ("sub/y.jpg", False)):
        try:
            settle(after, processed(root, name, ok))
        except OutputError as exc:
            said.append(str(exc))
            assert (root / name).exists()
    assert list(victim.iterdir()) == []
    harmless = action == "delete" and planted.startswith("done")
    assert len(said) == (0 if harmless else 2 if FOLDER in planted else 1)
    for text in said:
        assert "is a symbolic link, which is not followed" in text


def test_another_file_system(root, put, file_system_of):
    path = put("x.jpg", b"1" * 100_000, mtime_s=7.5)
    put("x.jpg.ok", b"why not")
    path.chmod(0o640)
    put("done/x.jpg", b"2" * 100_000, mtime_s=7.5)
    file_system_of(f"{root}/done")
    (where,) = settle(PostProcessing("move", root, marker=".ok"), processed(root, "x.jpg"))
    assert tree(root) == {
        "done/x.jpg": b"2" * 100_000,
        "done/x~2.jpg": b"1" * 100_000,
        "done/x~2.jpg.ok": b"why not",
    }
    status = where.stat()
    assert (status.st_mtime_ns, status.st_mode & 0o777) == (7_500_000_000, 0o640)


@pytest.mark.parametrize(
    ("owner", "call", "number", "message"),
    [
        (claims, "rename_new", errno.EACCES, "no permission"),
        (claims, "rename_new", errno.EROFS, "read-only file system"),
        (os, "mkdir", errno.ENOSPC, "no space left on device"),
        (transfer, "rename_new", errno.EDQUOT, "disk quota exceeded"),
    ],
)
def test_an_error_is_one_sentence_and_loses_nothing(
    owner, call, number, message, root, put, monkeypatch
):
    put("sub/x.jpg")
    after = PostProcessing("move", root)
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, fails(number))
        with pytest.raises(OutputError) as caught:
            settle(after, processed(root, "sub/x.jpg"))
    assert str(caught.value).startswith(f"cannot move {root}/sub/x.jpg")
    assert str(caught.value).endswith(f": {message}")
    assert (root / "sub/x.jpg").read_bytes() == b"image"
    settle(after, processed(root, "sub/x.jpg"))
    assert tree(root) == {"done/sub/x.jpg": b"image"}


def test_a_full_disk_leaves_no_piece_of_a_copy(root, put, monkeypatch, file_system_of):
    put("x.jpg")
    file_system_of(f"{root}/done")
    monkeypatch.setattr("runners.watch.files.transfer.shutil.copyfileobj", fails(errno.ENOSPC))
    with pytest.raises(OutputError, match="no space left on device"):
        settle(PostProcessing("move", root), processed(root, "x.jpg"))
    assert tree(root) == {"x.jpg": b"image"}


def test_a_file_where_a_folder_should_be(root, put):
    put("a/x.jpg")
    put("done/a")
    with pytest.raises(OutputError, match="done/a is not a folder"):
        settle(PostProcessing("move", root), processed(root, "a/x.jpg"))
    assert (root / "a/x.jpg").exists()


def test_each_folder_is_synced_once_for_many_files(root, put, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    after = PostProcessing("move", root)
    settle(
        after, *(processed(root, put(f"a/{i}.jpg").relative_to(root).as_posix()) for i in range(9))
    )
    assert sorted(synced) == [root, root / "a", root / "done", root / "done/a"]
    after.sync()
    assert len(synced) == 4


def test_what_is_moved_away_is_not_found_again(root, put, clock, settled):
    inbox = Inbox(root, Schedule(clock=clock), excluded=(root / "done",))
    put("x.jpg")
    settled(inbox)
    settle(PostProcessing("move", root), processed(root, "x.jpg"))
    assert settled(inbox) == []


def test_a_lease_disturbs_no_writer(root, put):
    """A process opens the file for writing at the same time, repeatedly."""
    path = put("x.jpg")
    script = "import sys\nwhile True: open(sys.argv[1], 'ab').close(); print(flush=True)"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline()
            end, seen = time.monotonic() + 0.3, set()
            while time.monotonic() < end:
                seen.add(WriterCheck().is_open_for_writing(path))
            os.set_blocking(writer.stdout.fileno(), False)
            assert len(writer.stdout.read() or b"") > 10, "it kept running"
            assert writer.poll() is None
        finally:
            writer.kill()
    assert False in seen


def test_network_file_systems_are_not_asked_for_leases(root, put, monkeypatch):
    path = put("x.jpg")
    kind = (ctypes.c_long * 32)()
    ctypes.CDLL(None).statfs(os.fsencode(path), kind)
    remote = frozenset([kind[0] & 0xFFFFFFFF])
    monkeypatch.setattr("runners.watch.inbox.writers._REMOTE", remote)
    monkeypatch.setattr("runners.watch.inbox.writers.fcntl.fcntl", fails(errno.EAGAIN))
    assert not WriterCheck().is_open_for_writing(path)
    with path.open("ab"):
        assert WriterCheck().is_open_for_writing(path), "open files of this machine are detected"
