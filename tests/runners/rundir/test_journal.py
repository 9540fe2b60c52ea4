"""The only writer of ``predictions.jsonl``."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.encoding import encode, read_records
from pipeline.errors import OutputError
from pipeline.testing import make_result
from runners.rundir.journal import Journal, Position


def lines(asset: str, n: int = 1) -> list[bytes]:
    return [encode(make_result(1, asset_id=asset, index=i)) for i in range(n)]


def ids(file: Path) -> list[tuple[str, int, int]]:
    return [(each["asset"], each["frame"], each["image_id"]) for each in read_records(file)]


def test_image_ids_count_frames_in_the_order_of_appending(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(lines("x"))
        journal.append(iter([]))  # all frames were dropped
        journal.append(lines("fixed", 2), 4711)
        journal.append(lines("v", 2))
        size = journal.position.size
    assert journal.position == Position(size, 4)
    assert size == journal.path.stat().st_size
    assert ids(journal.path) == [
        ("x", 0, 1), ("fixed", 0, 4711), ("fixed", 1, 4712), ("v", 0, 2), ("v", 1, 3),
    ]  # fmt: skip


def test_it_continues_after_what_was_committed(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(lines("x"))
        committed = journal.position
        journal.append(lines("lost"))
    with Journal(tmp_path, committed) as journal:
        assert journal.path.stat().st_size == committed.size
        journal.append(lines("y"))
    assert ids(journal.path) == [("x", 0, 1), ("y", 0, 2)]


def test_nothing_appended_is_nothing_written(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(lines("x"))
    os.utime(journal.path, ns=(1, 1))
    with Journal(tmp_path, journal.position):
        pass
    assert journal.path.stat().st_mtime_ns == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"{}\n", "is shorter than the 9 bytes", id="short"),
        pytest.param(b"123456789\n", "was modified by another program", id="modified"),
    ],
)
def test_damage_is_noticed(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "predictions.jsonl").write_bytes(content)
    with pytest.raises(OutputError, match=says), Journal(tmp_path, Position(9, 2)):
        pass
    assert (tmp_path / "predictions.jsonl").read_bytes() == content


def test_a_deleted_file_is_noticed_before_the_commit(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(lines("x"))
        journal.path.unlink()
        with pytest.raises(OutputError, match="moved, replaced or deleted"):
            journal.sync()


class FullDisk:
    """Takes some bytes of a write, then has no room."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self.file.write(data[: self.room])
        self.room -= count
        return count


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize("room", [0, 1, 60, 400])
def test_a_full_disk_leaves_whole_assets(
    tmp_path: Path, room: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.rundir.journal._CHUNK", chunk)
    with Journal(tmp_path) as journal:
        journal.append(lines("x"))
        before, real = journal.path.read_bytes(), journal._file
        journal._file = FullDisk(real, room)  # type: ignore[assignment]
        with pytest.raises(OSError, match="No space") as caught:
            journal.append(lines("y", 5))
        assert caught.value.filename == str(journal.path)
        assert journal.path.read_bytes() == before
        journal._file = real
        journal.append(lines("y"))
    assert ids(journal.path) == [("x", 0, 1), ("y", 0, 2)]


def test_append_needs_with(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="enter the journal"):
        Journal(tmp_path).append(lines("x"))
