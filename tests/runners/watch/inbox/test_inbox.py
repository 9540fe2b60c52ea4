from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from pipeline.errors import RootGoneError
from runners.watch.inbox.inbox import Inbox
from runners.watch.schedule import Schedule


def ids(arrivals):
    return [arrival.id for arrival in arrivals]


@pytest.mark.parametrize("gap_s", [0.2, 1.0, 4.0])
def test_a_writer_that_pauses_for_less_than_the_settle_time_is_waited_for(root, put, clock, gap_s):
    inbox, early = Inbox(root, Schedule(clock=clock)), []
    path = put("x.jpg", b"")
    for _ in range(20):
        with path.open("ab") as file:  # closed in between, as scanners do
            file.write(bytes(64 << 10))
        for _ in range(4):
            early += inbox.scan()
            clock.now += gap_s / 4
            early += inbox.check_settled()
    assert early == []
    clock.now += 5.0
    assert [arrival.size for arrival in inbox.scan() + inbox.scan()] == [20 * (64 << 10)]


def test_a_writer_that_pauses_for_longer_is_read_again_until_its_last_version(root, put, clock):
    inbox, sizes = Inbox(root, Schedule(clock=clock)), []
    path = put("x.jpg", b"")
    for _ in range(4):
        with path.open("ab") as file:
            file.write(bytes(64 << 10))
        for _ in range(7):
            sizes += [arrival.size for arrival in inbox.scan()]
            clock.now += 1.0
    assert sizes == [n * (64 << 10) for n in (1, 2, 3, 4)]


def test_what_is_there_at_the_start_settles_too(put, root, clock):
    put("half.jpg")
    inbox = Inbox(root, Schedule(clock=clock))
    assert inbox.scan() == []
    clock.now += 4.9
    assert inbox.scan() == []
    assert inbox.due_in_s() == pytest.approx(0.1)
    assert inbox.settling() == ("half.jpg", 1)
    clock.now += 0.1
    assert ids(inbox.check_settled()) == ["half.jpg"]
    assert inbox.settling() == (None, 0)
    assert inbox.due_in_s() is None
    assert inbox.scan() == inbox.check_settled() == []


def test_the_version_is_that_of_the_second_look(put, root, clock):
    path = put("x.jpg", b"12345", mtime_s=7.25)
    inbox = Inbox(root, Schedule(clock=clock))
    inbox.scan()
    clock.now += 5.0
    (arrival,) = inbox.scan()
    assert (arrival.path, arrival.size, arrival.mtime_ns) == (path, 5, 7_250_000_000)


def test_a_slow_look_does_not_count_as_waiting(put, root, clock, monkeypatch):
    put("x.jpg")
    inbox = Inbox(root, Schedule(clock=clock))
    real = os.scandir

    def slow(path):
        clock.now += 60.0
        return real(path)

    monkeypatch.setattr(os, "scandir", slow)
    assert inbox.scan() == []
    assert inbox.check_settled() == []
    assert inbox.due_in_s() == 5.0


def test_another_inode_is_another_file_even_with_equal_size_and_times(put, root, clock, tmp_path):
    put("x.jpg", b"aaa", mtime_s=5)
    other = tmp_path / "other"
    other.write_bytes(b"bbb")
    os.utime(other, (5, 5))
    inbox = Inbox(root, Schedule(clock=clock))
    inbox.scan()
    clock.now += 3.0
    other.replace(root / "x.jpg")
    inbox.scan(deep=True)
    clock.now += 3.0
    assert inbox.scan() == []
    clock.now += 2.0
    assert ids(inbox.scan()) == ["x.jpg"]


def _create(root, outside):
    (root / "x.jpg").write_bytes(b"new")


def _rename_in(root, outside):
    outside.write_bytes(b"new")
    outside.rename(root / "x.jpg")


def _copy_with_old_times(root, outside):
    outside.write_bytes(b"new")
    os.utime(outside, (86400, 86400))
    shutil.copy2(outside, root / "x.jpg")


def _hardlink(root, outside):
    outside.write_bytes(b"new")
    os.link(outside, root / "x.jpg")


def _rsync(root, outside):
    (root / ".x.jpg.Zk3J1q").write_bytes(b"new")
    (root / ".x.jpg.Zk3J1q").rename(root / "x.jpg")


def _link(root, outside):
    outside.write_bytes(b"new")
    (root / "x.jpg").symlink_to(outside)


@pytest.mark.parametrize(
    "arrive", [_create, _rename_in, _copy_with_old_times, _hardlink, _rsync, _link]
)
def test_each_way_of_arriving_counts_once(arrive, put, root, clock, touch, tmp_path, settled):
    put("old.jpg")
    inbox = Inbox(root, Schedule(clock=clock))
    assert ids(settled(inbox)) == ["old.jpg"]
    arrive(root, tmp_path / "outside.jpg")
    touch()
    assert ids(settled(inbox)) == ["x.jpg"]
    assert settled(inbox, deep=True) == []


def test_new_content_is_a_new_version_and_a_new_name_a_new_file(put, root, clock, settled):
    inbox = Inbox(root, Schedule(clock=clock))
    put("x.jpg", b"first", mtime_s=1)
    put("twin.jpg", b"first", mtime_s=1)
    assert ids(settled(inbox)) == ["twin.jpg", "x.jpg"]
    put("x.jpg", b"other", mtime_s=2)
    assert ids(settled(inbox)) == ["x.jpg"]
    inode = (root / "x.jpg").stat().st_ino
    (root / "x.jpg").unlink()
    put("y.jpg", b"third", mtime_s=2)  # takes up the inode on most file systems
    assert ids(settled(inbox)) == ["y.jpg"]
    (root / "y.jpg").rename(root / "x.jpg")
    put("x.jpg", b"third", mtime_s=3)
    assert ids(settled(inbox)) == ["x.jpg"], inode


def test_what_is_remembered_does_not_come_again_but_its_next_version_does(
    put, root, clock, settled
):
    path = put("x.jpg", b"first", mtime_s=1)
    inbox = Inbox(root, Schedule(clock=clock))
    inbox.remember("x.jpg", 5, 10**9)
    assert settled(inbox) == []
    assert inbox.n_pending == 0
    os.utime(path, (2, 2))
    assert ids(settled(inbox, deep=True)) == ["x.jpg"]
    os.utime(path, (1, 1))  # restored: the latest version counts, not all there ever were
    assert ids(settled(inbox, deep=True)) == ["x.jpg"]
    assert settled(inbox, deep=True) == []


def test_a_file_that_was_moved_away_may_come_again_as_it_was(put, root, clock, settled, tmp_path):
    path = put("x.jpg", mtime_s=1)
    inbox = Inbox(root, Schedule(clock=clock))
    settled(inbox)
    path.rename(tmp_path / "x.jpg")
    inbox.forget("x.jpg")
    (tmp_path / "x.jpg").rename(path)
    assert ids(settled(inbox)) == ["x.jpg"]


def test_memory_is_for_what_is_there(put, root, clock, settled):
    inbox = Inbox(root, Schedule(clock=clock))
    for i in range(20):
        put(f"{i % 2}/{i}.jpg")
        inbox.remember(f"{i % 2}/gone {i}.jpg", 5, 10**9)
    assert len(settled(inbox)) == 20
    for i in range(20):
        if i % 2 or i < 10:
            (root / f"{i % 2}/{i}.jpg").unlink()
    assert settled(inbox) == []
    assert settled(inbox, deep=True) == []
    assert len(inbox._known) == 5
    put("0/0.jpg")
    assert ids(settled(inbox)) == ["0/0.jpg"]


def test_a_look_that_fails_forgets_nothing(put, root, clock, settled, tmp_path):
    for name in ("a.jpg", "b/c.jpg"):
        put(name)
    inbox = Inbox(root, Schedule(clock=clock))
    settled(inbox)
    root.rename(tmp_path / "away")
    with pytest.raises(RootGoneError):
        inbox.scan(deep=True)
    (tmp_path / "away").rename(root)
    assert settled(inbox, deep=True) == []


def test_what_was_put_back_while_the_root_was_away_is_found(put, root, clock, settled, tmp_path):
    put("sub/x.jpg")
    inbox = Inbox(root, Schedule(clock=clock))
    settled(inbox)
    inbox.scan()  # nothing is listed again unless it changes
    root.rename(tmp_path / "away")
    inbox.forget("sub/x.jpg")  # the runner could not read it
    with pytest.raises(RootGoneError):
        inbox.scan()
    (tmp_path / "away").rename(root)
    assert ids(settled(inbox)) == ["sub/x.jpg"]


def test_a_file_that_changed_while_it_was_read_comes_again(put, root, clock, settled):
    """The runner remembers the version that it has read; the file is another version now."""
    path = put("x.jpg", b"123")
    inbox = Inbox(root, Schedule(clock=clock))
    (arrival,) = settled(inbox)
    inbox.remember(arrival.id, arrival.size, arrival.mtime_ns)
    path.write_bytes(b"12345")  # in place: the folder shows nothing
    assert [again.size for again in settled(inbox)] == [5]


def test_an_old_file_written_over_in_place_is_found_by_a_deep_look(put, root, clock, settled):
    path = put("x.jpg", b"123")
    inbox = Inbox(root, Schedule(clock=clock))
    settled(inbox)
    clock.now += 3600.0
    settled(inbox)
    path.write_bytes(b"12345")
    assert settled(inbox) == []
    inbox.scan(deep=True)
    clock.now += 5.0
    assert [again.size for again in inbox.check_settled()] == [5]


@pytest.mark.parametrize(
    "name",
    [
        b"\xff.jpg",
        b"a\nb.jpg",
        b"tab\t.jpg",
        b"'\".jpg",
        b"-rf.jpg",
        b"%s{}.jpg",
        "\N{GRINNING FACE}.jpg".encode(),
        "e\N{COMBINING ACUTE ACCENT}.jpg".encode(),
        "\N{LATIN SMALL LETTER E WITH ACUTE}.jpg".encode(),
        b"n" * 251 + b".jpg",
        b"\xff\xfe/\xed\xb3\xbf.JPG",
        b"a b/ .jpg",
    ],
)
def test_any_name(name, put, root, clock, settled):
    put(name)
    inbox = Inbox(root, Schedule(clock=clock))
    (arrival,) = settled(inbox)
    assert os.fsencode(arrival.id) == name
    assert arrival.path.read_bytes() == b"image"
    other = Inbox(root, Schedule(clock=clock))
    other.remember(arrival.id, arrival.size, arrival.mtime_ns)
    assert settled(other) == []


@pytest.mark.parametrize("mtimes_s", [(0, 0), (4102444800, 4102444800), (1, 4102444800)])
def test_times_of_files_are_never_compared_with_a_clock(
    put, root, clock, settled, mtimes_s, monkeypatch
):
    for i, mtime_s in enumerate(mtimes_s):
        put(f"{i}.jpg", mtime_s=mtime_s)
    inbox = Inbox(root, Schedule(clock=clock))
    inbox.scan()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)  # the clock is set back
    assert ids(settled(inbox)) == ["0.jpg", "1.jpg"]
    assert settled(inbox, deep=True) == []


def test_order_is_first_sight_then_natural(put, root, clock):
    inbox = Inbox(root, Schedule(clock=clock))
    for name in ("x10.jpg", "x9.jpg", "b/x1.jpg", "b/x01.jpg"):
        put(name)
    inbox.scan()
    put("a.jpg")
    inbox.scan()
    clock.now += 5.0
    assert ids(inbox.scan()) == ["b/x01.jpg", "b/x1.jpg", "x9.jpg", "x10.jpg", "a.jpg"]


def test_marker(put, root, clock):
    inbox = Inbox(root, Schedule(clock=clock), ready="marker", marker=".ok")
    put("x.jpg")
    put("y.jpg", b"")
    put("y.jpg.ok", b"")
    put("readme.ok")
    assert inbox.scan() == []
    assert inbox.due_in_s() is None
    assert inbox.skipped == {"without a marker": 1, "empty file": 1}
    put("x.jpg.ok", b"")
    assert ids(inbox.scan()) == ["x.jpg"]
    (root / "y.jpg").write_bytes(b"late")
    assert ids(inbox.scan()) == ["y.jpg"]


def test_a_marker_that_is_taken_back_while_its_image_is_empty(put, root, clock):
    inbox = Inbox(root, Schedule(clock=clock), ready="marker")
    path = put("x.jpg", b"")
    put("x.jpg.done", b"").unlink()
    (root / "x.jpg.done").write_bytes(b"")
    inbox.scan()
    (root / "x.jpg.done").unlink()
    path.write_bytes(b"image")
    assert inbox.check_settled() == inbox.scan() == []
    assert inbox.due_in_s() is None
    put("x.jpg.done", b"")
    assert ids(inbox.scan()) == ["x.jpg"]


def test_rename_needs_no_settling(put, root, clock):
    inbox = Inbox(root, Schedule(clock=clock), ready="rename")
    put("x.jpg.part").rename(root / "x.jpg")
    put("y.jpg.tmp")
    assert ids(inbox.scan()) == ["x.jpg"]
    assert inbox.scan() == []


def test_an_empty_file_waits_for_its_content_without_haste(put, root, clock):
    path = put("x.jpg", b"")
    inbox = Inbox(root, Schedule(clock=clock))
    inbox.scan()
    clock.now += 5.0
    assert inbox.check_settled() == []
    assert inbox.due_in_s() is None
    assert inbox.skipped == {"empty file": 1}
    path.write_bytes(b"image")
    inbox.scan()
    assert inbox.due_in_s() == 5.0
    clock.now += 5.0
    assert ids(inbox.check_settled()) == ["x.jpg"]
    assert inbox.skipped == {}


def test_a_file_that_may_not_be_read_waits_until_it_may(put, root, clock, settled, monkeypatch):
    put("x.jpg")
    inbox = Inbox(root, Schedule(clock=clock))
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)  # root may read anything
        assert settled(inbox) == []
        assert inbox.due_in_s() is None
    assert inbox.skipped == {"no permission": 1}
    assert inbox.skipped_report() == ["skipped: x.jpg: no permission"]
    assert ids(inbox.scan()) == ["x.jpg"]


@pytest.mark.parametrize("check", ["scan", "check_settled"])
def test_only_files_that_the_second_check_has_seen_are_handed_out(
    check, put, root, clock, monkeypatch
):
    gone, old = put("gone.jpg"), put("old.jpg", b"new", mtime_s=2)
    put("sick.jpg")
    inbox = Inbox(root, Schedule(clock=clock))
    inbox.remember("old.jpg", 3, 10**9)
    times = root.stat()
    for _ in range(2):
        inbox.scan()
        clock.now += 2.5  # then the folder is not listed again
    gone.unlink()
    os.utime(old, (1, 1))
    os.utime(root, ns=(0, times.st_mtime_ns))
    real = os.stat

    def stat(path, **kwargs):
        if str(path).endswith("sick.jpg"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: True)
        patch.setattr(os, "stat", stat)
        assert getattr(inbox, check)() == []
        assert inbox.skipped == {"input/output error": 1}
        assert inbox.due_in_s() is None
    assert ids(inbox.scan()) == ["sick.jpg"]


def test_a_link_that_leads_somewhere_later(put, root, clock, settled, tmp_path):
    (root / "x.jpg").symlink_to(tmp_path / "later.jpg")
    inbox = Inbox(root, Schedule(clock=clock))
    assert settled(inbox) == settled(inbox) == []
    assert inbox.skipped == {"dangling link": 1}
    (tmp_path / "later.jpg").write_bytes(b"image")
    assert ids(settled(inbox)) == ["x.jpg"]


def test_a_root_that_goes_and_comes_back(put, root, clock, settled, tmp_path):
    put("done.jpg")
    inbox = Inbox(root, Schedule(clock=clock))
    assert ids(settled(inbox)) == ["done.jpg"]
    put("sub/pending.jpg")
    inbox.scan()
    clock.now += 2.5
    inbox.scan()  # the folders count as known now
    away = root.rename(tmp_path / "away")
    for _ in range(3):
        with pytest.raises(RootGoneError, match=r"cannot read .*/in: no such file\. "):
            inbox.scan()
        clock.now += 30.0
        assert inbox.check_settled() == []
    away.rename(root)
    assert ids(settled(inbox)) == ["sub/pending.jpg"]
    assert settled(inbox, deep=True) == []


def test_a_root_that_is_replaced_by_a_file_and_then_by_a_new_folder(put, root, clock, settled):
    put("a.jpg", mtime_s=1)
    inbox = Inbox(root, Schedule(clock=clock))
    settled(inbox)
    shutil.rmtree(root)
    root.write_bytes(b"")
    with pytest.raises(RootGoneError, match="not a directory"):
        inbox.scan()
    root.unlink()
    root.mkdir()
    assert settled(inbox) == []
    put("a.jpg", mtime_s=1)
    put("b.jpg")
    assert ids(settled(inbox)) == ["b.jpg"]


def test_a_root_that_is_a_loop_of_links(tmp_path, clock):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RootGoneError, match="too many levels of symbolic links"):
        Inbox(tmp_path / "loop", Schedule(clock=clock)).scan()


def test_an_unmounted_root_is_not_an_empty_one(put, root, clock, settled, tmp_path):
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    put("a.jpg")
    point = tmp_path / "point"  # a link plays the role of a mount point
    point.symlink_to(root)
    inbox = Inbox(point, Schedule(clock=clock))
    settled(inbox)
    empty = shm / f"d2run-{os.getpid()}"
    empty.mkdir()
    try:
        point.unlink()
        point.symlink_to(empty)
        with pytest.raises(RootGoneError, match="unmounted"):
            inbox.scan()
    finally:
        empty.rmdir()
    point.unlink()
    point.symlink_to(root)
    assert settled(inbox) == []


def test_the_schedule_learns_what_scans_cost(put, root, clock, monkeypatch):
    put("x.jpg")
    schedule = Schedule(clock=clock)
    inbox, costs = Inbox(root, schedule), []
    cpu_s = iter([0.0, 2.0, 2.0, 2.5, 2.5, 2.75, 2.75, 3.0])
    monkeypatch.setattr(time, "thread_time", lambda: next(cpu_s))
    monkeypatch.setattr(schedule, "record_scan", lambda **cost: costs.append(cost))
    inbox.scan()
    clock.now += 5.0
    inbox.scan()
    inbox.scan()
    inbox.scan(deep=True)
    assert [cost["cpu_s"] for cost in costs] == [2.0, 0.5, 0.25, 0.25]
    assert [cost["is_idle"] for cost in costs] == [False, False, True, False]
    assert [cost["is_deep"] for cost in costs] == [False, False, False, True]


def test_a_file_that_is_open_for_writing_is_waited_for(put, root, clock, settled):
    path = put("x.jpg")
    put("y.jpg")
    inbox = Inbox(root, Schedule(clock=clock))
    with path.open("ab"):
        assert [arrival.id for arrival in settled(inbox)] == ["y.jpg"]
        clock.now += 100.0
        assert inbox.check_settled() == []
        assert inbox.skipped == {"still open for writing": 1}
        assert inbox.due_in_s() == 5.0
    assert inbox.check_settled() == []
    clock.now += 5.0
    (arrival,) = inbox.check_settled()
    assert (arrival.id, arrival.is_retry) == ("x.jpg", False)
    assert inbox.n_pending == 0
    assert [line.split(": ", 1)[1] for line in inbox.skipped_report()] == [
        "x.jpg: still open for writing"
    ]


@pytest.mark.parametrize("ready", ["marker", "rename"])
def test_a_writer_that_says_when_it_is_complete_is_believed(ready, put, root, clock):
    path = put("x.jpg")
    put("x.jpg.done", b"")
    inbox = Inbox(root, Schedule(clock=clock), ready=ready)
    with path.open("ab"):
        (arrival,) = inbox.scan()
    assert not inbox.retry(arrival)


def test_what_cannot_be_decoded_is_handed_out_once_more(put, root, clock, settled):
    path = put("x.jpg", b"half", mtime_s=1)
    inbox = Inbox(root, Schedule(clock=clock))
    (arrival,) = settled(inbox)
    assert inbox.retry(arrival)
    assert (inbox.has_retries, inbox.n_pending) == (True, 1)
    clock.now += 19.9
    assert inbox.scan() == []
    clock.now += 0.1
    (again,) = inbox.check_settled()
    assert again.is_retry
    assert not inbox.retry(again)
    assert not inbox.has_retries
    path.write_bytes(b"half and half")  # a new version may be retried, too
    (whole,) = settled(inbox, deep=True)
    assert not whole.is_retry
    assert inbox.retry(whole)
    path.write_bytes(b"and a third half")
    inbox.scan()
    assert not inbox.has_retries
    clock.now += 5.0
    (arrival,) = inbox.scan()
    assert not arrival.is_retry


@pytest.mark.parametrize("changed", [False, True])
def test_a_file_that_is_to_be_looked_at_again(changed, put, root, clock, settled):
    path = put("x.jpg", mtime_s=1)
    inbox = Inbox(root, Schedule(clock=clock))
    (arrival,) = settled(inbox)
    if changed:
        path.write_bytes(b"changed in place")
    inbox.recheck(arrival)
    assert inbox.check_settled() == []
    found = settled(inbox)
    assert [arrival.size for arrival in found] == [path.stat().st_size]
    path.unlink()
    inbox.recheck(found[0])
    assert settled(inbox) == []
    assert inbox.n_pending == 0
