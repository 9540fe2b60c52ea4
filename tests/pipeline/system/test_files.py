from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OutputError
from pipeline.system.files import (
    RegularFile,
    locked_folder,
    output_name,
    read_regular,
    remove_temporaries,
    replaced,
    sha256_file,
    write_whole,
)
from pipeline.system.output_folder import OutputFolder


def everything_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("data", "content"),
    [
        pytest.param(b"\x00\xff", b"\x00\xff", id="bytes"),
        pytest.param("ünï\n", b"\xc3\xbcn\xc3\xaf\n", id="text is UTF-8"),
        pytest.param(b"", b"", id="empty"),
    ],
)
def test_write_whole(tmp_path, data, content):
    path = tmp_path / "new" / "folder" / "file"
    write_whole(path, data)
    write_whole(path, data)
    assert path.read_bytes() == content
    assert everything_in(tmp_path) == ["file", "folder", "new"]


@pytest.mark.parametrize(("durable", "waits"), [(True, 1), (False, 0)])
def test_only_what_is_durable_waits_for_the_disk(tmp_path, monkeypatch, durable, waits):
    calls = []
    monkeypatch.setattr(os, "fsync", calls.append)
    write_whole(tmp_path / "file", "new", durable=durable)
    assert (tmp_path / "file").read_text() == "new"
    assert len(calls) == waits


class Stopped(BaseException):
    """Such as a signal's: no Exception."""


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, Stopped])
@pytest.mark.parametrize("before", [None, b"old"], ids=["new file", "old file"])
def test_an_error_leaves_the_old_content_and_no_trace(tmp_path, before, error):
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), replaced(path) as file:  # noqa: PT012
        file.write(b"half of the new")
        file.flush()
        raise error
    assert everything_in(tmp_path) == ([] if before is None else ["file"])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_of_the_disk_leaves_the_old_content_and_no_trace(tmp_path, monkeypatch, step):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert everything_in(tmp_path) == ["file"]


def test_readers_see_the_old_content_until_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replaced(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_the_longest_name_there_may_be(tmp_path):
    write_whole(tmp_path / ("n" * 255), b"x")
    assert everything_in(tmp_path) == ["n" * 255]


def test_a_name_that_is_no_utf8(tmp_path):
    name = os.fsdecode(b"\xff\xfe.jpg")
    write_whole(tmp_path / name, b"x")
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff\xfe.jpg"]  # noqa: PTH208


def test_the_folder_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_whole(tmp_path / "file" / "below", b"x")


@pytest.mark.parametrize(
    ("asset_id", "suffix", "frame", "expected"),
    [
        pytest.param("x.jpg", ".png", None, "x.jpg.png", id="the whole id is kept"),
        pytest.param("a/b/x.jpg", ".json", None, "a/b/x.jpg.json", id="the tree is mirrored"),
        pytest.param("x.mp4", ".jpg", 7, "x.mp4/000007.jpg", id="a frame of several"),
        pytest.param("x.mp4", ".jpg", 12345678, "x.mp4/12345678.jpg", id="a very long video"),
        pytest.param("a/./b//x.jpg", ".png", None, "a/b/x.jpg.png", id="made plain"),
        pytest.param("../x.jpg", ".png", None, "__/x.jpg.png", id="parent"),
        pytest.param("a/../../x", ".png", None, "a/__/__/x.png", id="parent's parent"),
        pytest.param("..", ".png", None, "__.png", id="only the parent"),
        pytest.param("..", ".png", 0, "__/000000.png", id="a frame of the parent"),
        pytest.param("/etc/x.jpg", ".png", None, "etc/x.jpg.png", id="absolute"),
        pytest.param("...", ".png", None, "....png", id="three dots are a name"),
        pytest.param("ünï/ö.jpg", ".png", None, "ünï/ö.jpg.png", id="letters beyond ASCII"),
    ],
)
def test_output_name(asset_id, suffix, frame, expected):
    assert output_name(asset_id, suffix, frame) == expected


LONG = {
    "ASCII": "n" * 255,
    "two bytes a letter": "ü" * 127,
    "two bytes a letter, shifted": "x" + "ü" * 127,
    "four bytes a letter": "😀" * 63,
    "no UTF-8": os.fsdecode(b"\xff" * 255),
    "no UTF-8, mixed": os.fsdecode("ü".encode() * 100 + b"\xff" * 55),
}


@pytest.mark.parametrize("name", LONG.values(), ids=LONG.keys())
@pytest.mark.parametrize("frame", [None, 3])
@pytest.mark.parametrize("suffix", [".jpg", ".json"])
def test_long_names_fit_and_stay_unique(tmp_path, name, frame, suffix):
    ids = [name, name[:-1], f"{name}/{name}", f"a/{name}", f"{name[:-1]}/x"]
    names = [output_name(asset_id, suffix, frame) for asset_id in ids]
    assert len(set(names)) == len(ids)
    for output in names:
        assert max(len(os.fsencode(part)) for part in output.split("/")) <= 255
        assert output.endswith(suffix)
        write_whole(tmp_path / output, b"x")  # the file system takes it
        if name.isprintable():
            output.encode()  # what was text stays text: no letter is cut in two
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == len(ids)


AWKWARD = [
    "x", "x.jpg", "x.png", "X.jpg", "a/x.jpg", "b/x.jpg", "a/b/x.jpg", "a_b/x.jpg", "a b/x.jpg",
    "a\\x.jpg", "a\nx.jpg", " x.jpg", "x.jpg ", "~x.jpg", "-x.jpg", "..x", "x..", "...", ".x",
    "../x.jpg", "../../x.jpg", "a/../x.jpg", "__/x.jpg", "___/x.jpg", "_/x.jpg", "__", "___", "..",
    os.fsdecode(b"\xff.jpg"), os.fsdecode(b"\xfe.jpg"), "\u00e9.jpg", "e\u0301.jpg",
]  # fmt: skip


@pytest.mark.parametrize("frame", [None, 0])
def test_names_never_meet_and_never_escape(tmp_path, frame):
    names = [output_name(asset_id, ".jpg", frame) for asset_id in AWKWARD]
    assert len(set(names)) == len(AWKWARD)
    for name in names:
        assert Path(os.path.abspath(tmp_path / name)).is_relative_to(tmp_path)  # noqa: PTH100
        assert ".." not in name.split("/")


def test_sha256_file(tmp_path):
    data = os.urandom(3 << 20) + b"odd"
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_file(tmp_path / "empty") == hashlib.sha256().hexdigest()


def test_the_names_of_folders_are_synced_whoever_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)  # by a run that was killed before it synced them
    folder, synced, broken = OutputFolder(tmp_path), list[str](), [True]

    def sync(path: str, below: Path) -> None:
        if broken:
            broken.pop()
            raise OSError(5, "I/O error")
        synced.append(os.path.relpath(path, tmp_path))

    monkeypatch.setattr("pipeline.system.output_folder.sync_folder", sync)
    folder.write("a/b/x", b"1")
    with pytest.raises(OSError, match="I/O"):
        folder.sync()
    folder.sync()  # what failed is not taken for done
    assert synced == [".", "a", "a/b"]
    folder.write("a/b/y", b"2")
    folder.sync()
    assert synced[3:] == ["a/b"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(os.mkfifo, "a pipe or a device", id="fifo"),  # opening it would wait
        pytest.param(os.mkdir, "it is a folder", id="folder"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "a pipe or a device", id="device"),
        pytest.param(lambda path: path.symlink_to("nowhere"), "No such file", id="link"),
    ],
)
def test_what_is_no_regular_file(tmp_path, make, message):
    make(tmp_path / "x")
    for read in (RegularFile, sha256_file, lambda path: read_regular(path, 9)):
        with pytest.raises(OSError, match=message):
            read(tmp_path / "x")


def test_a_regular_file_is_as_long_as_it_was(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    with RegularFile(path) as file:
        with path.open("ab") as more:
            more.write(b"more")
        assert file.read(3) + file.read(1 << 62) == b"0123456789"
        assert (file.size, file.read(), file.read(5)) == (10, b"", b"")
    (tmp_path / "link").symlink_to(path)
    assert read_regular(tmp_path / "link", 14) == b"0123456789more"
    with pytest.raises(OSError, match="it has 14 bytes, more than 13"):
        read_regular(path, 13)


class Growing:
    """What a sink with one growing file per asset does."""

    def __init__(self, root: Path) -> None:
        self.folder = OutputFolder(root)

    def write(self, *parts: bytes) -> None:
        file = self.folder.open("csv/a/x.csv")
        for part in parts:
            file.write(part)


def test_a_growing_file_appears_when_it_is_committed(tmp_path: Path) -> None:
    sink = Growing(tmp_path)
    for content in (b"old", b"new"):
        sink.write(content[:1], content[1:])
        assert [path for path in (tmp_path / "csv").rglob("*.csv")] == [
            tmp_path / "csv/a/x.csv" for _ in range(content == b"new")
        ]
        sink.folder.commit("csv/a/x.csv")
        sink.folder.sync()
        assert everything_in(tmp_path) == ["a", "csv", "x.csv"]
        assert (tmp_path / "csv/a/x.csv").read_bytes() == content


@pytest.mark.parametrize("name", ["csv/a/x.csv", "csv/a", "csv"])
def test_a_growing_file_is_removed(tmp_path: Path, name: str) -> None:
    sink = Growing(tmp_path)
    sink.write(b"content")
    assert len(everything_in(tmp_path)) == 1
    sink.folder.remove(name)
    assert everything_in(tmp_path) == []
    with pytest.raises(KeyError):
        sink.folder.commit("csv/a/x.csv")


def test_a_growing_file_of_a_killed_run_is_removed_by_the_next(tmp_path: Path) -> None:
    OutputFolder(tmp_path).open("csv/a/x.csv").close()
    assert len(everything_in(tmp_path)) == 1
    remove_temporaries(tmp_path)
    assert everything_in(tmp_path) == []


def test_a_full_disk_leaves_no_growing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    sink = Growing(tmp_path)
    sink.folder.write("csv/a/x.csv", b"old")
    sink.write(b"content")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        sink.folder.commit("csv/a/x.csv")
    assert everything_in(tmp_path) == ["a", "csv", "x.csv"]
    assert (tmp_path / "csv/a/x.csv").read_bytes() == b"old"


def test_a_growing_file_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/csv").symlink_to(tmp_path / "elsewhere")
    sink = Growing(tmp_path / "out")
    sink.write(b"content")
    with pytest.raises(OutputError, match="symbolic link"):
        sink.folder.commit("csv/a/x.csv")
    assert everything_in(tmp_path) == ["csv", "elsewhere", "out"]


def test_names_of_a_long_video_are_not_all_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.system.output_folder._MAX_UNSYNCED", 3)
    folder = OutputFolder(tmp_path)
    for i in range(10):
        folder.write(f"v/{i}", b"")
        assert len(folder._written) < 3
    (tmp_path / "v/9").unlink()
    with pytest.raises(OutputError, match="moved or deleted"):
        folder.sync()


def test_a_locked_folder_that_another_process_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be taken for that of a killed process until it is locked."""
    made: list[Path] = []
    mkdtemp = tempfile.mkdtemp

    def removed_at_first(**options: Any) -> str:
        made.append(Path(mkdtemp(**options)))
        if len(made) == 1:
            made[0].rmdir()
        return str(made[-1])

    flock = fcntl.flock

    def removed_while_waiting(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        if len(made) == 2:
            made[1].rmdir()

    monkeypatch.setattr(tempfile, "mkdtemp", removed_at_first)
    monkeypatch.setattr(fcntl, "flock", removed_while_waiting)
    path, lock = locked_folder("x-", tmp_path)
    assert path == made[2]
    assert [*tmp_path.iterdir()] == [path]
    os.close(lock)
    monkeypatch.undo()
    again, lock = locked_folder("x-", tmp_path)
    assert [*tmp_path.iterdir()] == [again] != [path]
    os.close(lock)
