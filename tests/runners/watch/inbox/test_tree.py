from __future__ import annotations

import os
import re
import shutil
import socket
from pathlib import Path

import pytest

from runners.watch.inbox.inbox import Inbox
from runners.watch.schedule import Schedule


@pytest.fixture
def listed(root, monkeypatch):
    """Names of the folders below the root, in the order in which they are listed."""
    names: list[str] = []
    real = os.scandir

    def scandir(path):
        names.append(os.path.relpath(path, root))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return names


def ids(arrivals):
    return [arrival.id for arrival in arrivals]


def test_only_folders_that_changed_are_listed(put, root, clock, listed):
    for name in ("a/1.jpg", "a/b/2.jpg", "c/3.jpg"):
        put(name)
    inbox = Inbox(root, Schedule(clock=clock))
    inbox.scan()
    clock.now += 1.9
    inbox.scan()
    assert sorted(listed) == sorted([".", "a", "a/b", "c"] * 2), "a change may still hide"
    clock.now += 0.1
    inbox.scan()
    listed.clear()
    clock.now += 5.0
    assert ids(inbox.scan()) == ["a/1.jpg", "a/b/2.jpg", "c/3.jpg"]
    assert listed == []
    (root / "a/b/new.jpg").write_bytes(b"image")
    inbox.scan()
    assert listed == ["a/b"]
    listed.clear()
    inbox.scan(deep=True)
    assert sorted(listed) == [".", "a", "a/b", "c"]


def test_a_file_that_comes_within_the_tick_of_a_listing_is_found(put, root, clock, settled):
    put("a.jpg")
    status = root.stat()
    inbox = Inbox(root, Schedule(clock=clock))
    inbox.scan()
    clock.now += 1.0
    (root / "b.jpg").write_bytes(b"image")
    os.utime(root, ns=(0, status.st_mtime_ns))  # the clock of the file system has not moved
    assert ids(settled(inbox)) == ["a.jpg", "b.jpg"]


def test_a_folder_that_is_replaced_is_listed(put, root, clock, settled, tmp_path):
    put("sub/a.jpg", mtime_s=1)
    inbox = Inbox(root, Schedule(clock=clock))
    settled(inbox)
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.jpg").write_bytes(b"image")
    times = (root / "sub").stat().st_mtime_ns
    shutil.rmtree(root / "sub")
    other.rename(root / "sub")
    os.utime(root / "sub", ns=(times, times))
    assert ids(settled(inbox)) == ["sub/b.jpg"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".hidden.jpg", "hidden"),
        (".stfolder/x.jpg", "hidden"),
        ("Thumbs.db", "system file"),
        ("@eaDir/x.jpg", "system file"),
        ("x.jpg.part", "temporary file"),
        ("x.jpg~", "temporary file"),
        ("~$x.jpg", "temporary file"),
        ("#x.jpg#", "temporary file"),
        ("film.mp4", "video"),
        ("x.txt", "not an image (.txt)"),
        ("x.psd", "unsupported image format (.psd)"),
        ("draft_1.jpg", "ignored"),
        ("raw/x.jpg", "ignored"),
        ("a/b.jpg", "ignored"),
    ],
)
def test_skipped_names(name, reason, put, root, clock, settled):
    put(name)
    put("taken.jpg")
    inbox = Inbox(root, Schedule(clock=clock), ignore=("draft_*", "raw", "a/*"))
    assert ids(settled(inbox)) == ["taken.jpg"]
    assert inbox.skipped == {reason: 1}


def test_own_folders_are_no_input_and_not_counted_as_skipped(put, root, clock, settled):
    for name in ("done/x.jpg", "done/notes.txt", "failed/y.jpg", "z.jpg"):
        put(name)
    inbox = Inbox(root, Schedule(clock=clock), excluded=(root / "done", root / "failed"))
    assert ids(settled(inbox)) == ["z.jpg"]
    assert inbox.skipped == {}


def test_the_root_itself_is_never_excluded(put, root, clock, settled):
    put("x.jpg")
    inbox = Inbox(root, Schedule(clock=clock), excluded=(root, root / "done"))
    assert ids(settled(inbox)) == ["x.jpg"]


def test_results_of_a_run_are_no_input(put, root, clock, settled):
    put("out/overlay/x.jpg")
    put("out/run.json")
    inbox = Inbox(root, Schedule(clock=clock))
    put("out/.lock")
    assert settled(inbox) == []
    assert inbox.skipped == {"results of a run": 1}


def test_without_recursion(put, root, clock, settled):
    put("x.jpg")
    put("sub/y.jpg")
    inbox = Inbox(root, Schedule(clock=clock), recursive=False)
    assert ids(settled(inbox)) == ["x.jpg"]
    assert inbox.skipped == {"directory that is not searched": 1}


def test_odd_entries_are_skipped_and_reported_once_per_hour(
    put, root, clock, settled, tmp_path, monkeypatch
):
    put("folder.jpg/x.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.jpg").write_bytes(b"image")
    for name, target in {
        "folder.jpg/loop": root,
        "up": tmp_path,
        "self": "self",
        "twin": "folder.jpg",
        "elsewhere": tmp_path / "elsewhere",
        "nowhere.jpg": "nothing",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.jpg")
    monkeypatch.chdir(root)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        inbox = Inbox(root, Schedule(clock=clock))
        assert ids(settled(inbox)) == ["elsewhere/z.jpg", "folder.jpg/x.jpg"]
    assert inbox.skipped == {
        "link to a directory that is already included": 3,
        "not an image (no extension)": 1,
        "dangling link": 1,
        "not a regular file": 2,
    }
    lines = inbox.skipped_report()
    assert sorted(re.sub("(pipe|socket)", "*", line) for line in lines) == [
        "skipped: *.jpg and 1 more: not a regular file",
        "skipped: nowhere.jpg: dangling link",
        "skipped: self: not an image (no extension)",
    ]
    os.mkfifo(root / "more.jpg")
    settled(inbox)
    assert inbox.skipped_report() == []
    clock.now += 3600.0
    settled(inbox, deep=True)
    assert (
        inbox.skipped_report() == ["skipped: more.jpg: not a regular file"]
        or inbox.skipped["not a regular file"]
    )


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(
    put, root, clock, settled, monkeypatch
):
    put("locked/x.jpg")
    put("open/y.jpg")
    real = os.scandir

    def scandir(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    inbox = Inbox(root, Schedule(clock=clock))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)  # root may list anything
        assert ids(settled(inbox)) == ["open/y.jpg"]
    assert inbox.skipped == {"directory that cannot be read (no permission)": 1}
    assert inbox.skipped_report() == [
        "skipped: locked: directory that cannot be read (no permission)"
    ]
    assert ids(settled(inbox)) == ["locked/x.jpg"]
    assert inbox.skipped == {}


def test_a_folder_whose_files_cannot_be_looked_at_is_tried_again(put, root, clock, settled):
    put("sub/x.jpg")
    inbox = Inbox(root, Schedule(clock=clock))
    if os.geteuid() == 0:
        pytest.skip("root may read anything")
    (root / "sub").chmod(0o400)
    assert settled(inbox) == settled(inbox) == []
    assert inbox.skipped == {"no permission": 1}
    (root / "sub").chmod(0o700)
    assert ids(settled(inbox)) == ["sub/x.jpg"]


def test_what_vanishes_while_it_is_looked_at(put, root, clock, settled, monkeypatch):
    put("gone.jpg")
    put("sub/gone too.jpg")
    put("stays.jpg")
    real = os.scandir

    class Listing:
        """Removes files after listing them."""

        def __init__(self, path):
            with real(path) as entries:
                self.entries = list(entries)
            for name in ("gone.jpg", "sub/gone too.jpg"):
                (root / name).unlink(missing_ok=True)
            if (root / "sub").exists():
                (root / "sub").rmdir()

        def __enter__(self):
            return self.entries

        def __exit__(self, *exc_info):
            pass

    inbox = Inbox(root, Schedule(clock=clock))
    monkeypatch.setattr(os, "scandir", Listing)
    assert inbox.scan() == []
    assert inbox.skipped["no such file"] >= 1
    clock.now += 5.0
    assert ids(inbox.scan()) == ["stays.jpg"]
    assert inbox.skipped_report() == []


def test_ten_thousand_odd_entries_make_one_line(root, clock):
    for i in range(10_000):
        (root / f"{i}.jpg").symlink_to("nothing")
    inbox = Inbox(root, Schedule(clock=clock))
    for _ in range(3):
        inbox.scan(deep=True)
    (line,) = inbox.skipped_report()
    assert re.fullmatch(r"skipped: \d+\.jpg and 9999 more: dangling link", line)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_two_hundred_thousand_done_files_in_ten_thousand_folders(root, clock):
    schedule = Schedule(clock=clock)
    inbox = Inbox(root, schedule)
    for i in range(10_000):
        folder = root / f"{i // 100:03d}" / f"{i:05d}"
        folder.mkdir(parents=True)
        for j in range(20):
            (folder / f"{j}.jpg").write_bytes(b"x")
            status = (folder / f"{j}.jpg").stat()
            asset_id = f"{i // 100:03d}/{i:05d}/{j}.jpg"
            inbox.remember(asset_id, status.st_size, status.st_mtime_ns)
    resident_mb = _resident_mb()
    for _ in range(3):
        assert inbox.scan() == []
        clock.now += 5.0
    assert _resident_mb() - resident_mb < 100
    assert inbox.n_pending == 0
    schedule.schedule_scan()
    assert schedule.next_scan_in_s() < 30.0, "an idle scan costs more than 10,000 stats"


@pytest.mark.nightly
def test_a_million_remembered_files_fit(root, clock):
    inbox = Inbox(root, Schedule(clock=clock))
    before_mb = _resident_mb()
    for i in range(1_000_000):
        inbox.remember(f"some/folder/{i // 1000:04d}/image_{i:08d}.jpg", 10**6 + i, 10**18 + i)
    assert _resident_mb() - before_mb < 250


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_a_linked_folder_is_not_entered_where_files_are_moved(put, root, clock, settled, tmp_path):
    put("sub/x.jpg")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "y.jpg").write_bytes(b"image")
    for link in ("linked", "sub/linked"):
        (root / link).symlink_to(tmp_path / "outside")
    inbox = Inbox(root, Schedule(clock=clock), follow=False)
    assert ids(settled(inbox)) == ["sub/x.jpg"]
    reason = "linked directory (followed only with runner.after=keep)"
    assert inbox.skipped == {reason: 2}
    assert inbox.skipped_report() == [f"skipped: linked and 1 more: {reason}"]
    assert ids(settled(Inbox(root, Schedule(clock=clock)))) == ["linked/y.jpg", "sub/x.jpg"]


def test_a_link_at_the_place_of_a_tree_hides_no_folder(put, root, clock, settled):
    put("sub/x.jpg")
    (root / "done").symlink_to("sub")
    inbox = Inbox(root, Schedule(clock=clock), excluded=(root / "done",), follow=False)
    assert ids(settled(inbox)) == ["sub/x.jpg"]


def test_private_names_that_were_left(put, root, clock):
    put(".d2run/x.jpg")
    put("sub/.d2run/y.jpg")
    inbox = Inbox(root, Schedule(clock=clock))
    assert inbox.scan() == []
    assert sorted(inbox.claim_folders) == ["", "sub"]
    for folder in (root, root / "sub"):
        shutil.rmtree(folder / ".d2run")
    inbox.scan(deep=True)
    assert inbox.claim_folders == []
