from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import watchfiles
from command_line import ROOT

from runners.watch.inbox.events import Events
from runners.watch.inbox.inbox import Inbox
from runners.watch.schedule import Schedule

QUICK = (0.01, 0.05)


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr("runners.watch.inbox.events._CHECK_MS", 100)


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def quiet(events):
    """Wait until it is subscribed and no more events arrive."""
    until(lambda: events.is_subscribed)
    while events.wait(0.3):
        pass


def test_wakes_on_a_new_file_but_not_on_irrelevant_changes(root, caplog):
    caplog.set_level(logging.DEBUG)
    path = root / "there.jpg"
    path.write_bytes(b"image")
    (root / "done").mkdir()
    with Events(root, excluded=(root / "done",)) as events:
        quiet(events)
        path.read_bytes()
        list(root.iterdir())
        (root / ".hidden.jpg").write_bytes(b"image")
        (root / "x.jpg.part").write_bytes(b"image")
        path.rename(root / "done" / "there.jpg")
        assert not events.wait(0.5)
        (root / "new.jpg").write_bytes(b"image")
        assert events.wait(30.0)
    assert caplog.messages == []


def test_wakes_on_a_file_in_a_folder_that_came_later(root):
    with Events(root) as events:
        quiet(events)
        (root / "sub").mkdir()
        quiet(events)
        (root / "sub" / "x.jpg").write_bytes(b"image")
        assert events.wait(30.0)


def test_a_name_that_is_not_utf8_kills_the_watcher_but_not_for_long(root, caplog):
    with Events(root, back_off_s=QUICK) as events:
        for i in range(3):
            quiet(events)
            with caplog.at_level(logging.WARNING, "d2run"):
                (root / os.fsdecode(b"%d\xff.jpg" % i)).write_bytes(b"image")
                assert events.wait(30.0), "the event that failed may have been a file"
        quiet(events)
        (root / "x.jpg").write_bytes(b"image")
        assert events.wait(30.0)
    (line,) = caplog.messages
    assert line.startswith(f"no events from {root} at present, only scans: Unable to decode path")


def test_the_death_of_the_watcher_wakes(root):
    with Events(root, back_off_s=(60.0, 60.0)) as events:
        quiet(events)
        (root / os.fsdecode(b"\xff.jpg")).write_bytes(b"image")
        assert events.wait(30.0)
        assert not events.is_subscribed


def test_a_root_that_is_replaced_is_watched_again(root):
    with Events(root, back_off_s=QUICK) as events:
        quiet(events)
        shutil.rmtree(root)
        until(lambda: not events.is_subscribed)
        root.mkdir()
        quiet(events)
        (root / "x.jpg").write_bytes(b"image")
        assert events.wait(30.0)


def test_without_inotify_the_scan_finds_all(root, clock, caplog, monkeypatch):
    starts = []

    def exhausted(*args, **kwargs):
        starts.append(1)
        raise OSError(28, "No space left on device")  # how the kernel says it
        yield

    monkeypatch.setattr(watchfiles, "watch", exhausted)
    inbox = Inbox(root, Schedule(clock=clock))
    with caplog.at_level(logging.WARNING, "d2run"), Events(root, back_off_s=QUICK) as events:
        until(lambda: len(starts) > 3)
        assert not events.is_subscribed
        for i in range(2000):
            (root / f"{i}.part").write_bytes(b"image")
            (root / f"{i}.part").rename(root / f"{i}.jpg")
        assert not events.wait(0.0)
        found = inbox.scan()
        clock.now += 5.0
        found += inbox.scan() + inbox.scan()
    assert [arrival.id for arrival in found] == [f"{i}.jpg" for i in range(2000)]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("n", [2000, pytest.param(20_000, marks=pytest.mark.nightly)])
def test_a_burst_is_found_exactly_once(root, n):
    inbox, found = Inbox(root, Schedule(settle_s=0.2)), []

    def write():
        for i in range(n):
            (root / f"{i}.part").write_bytes(b"image")
            (root / f"{i}.part").rename(root / f"{i}.jpg")

    writer = threading.Thread(target=write)
    with Events(root) as events:
        writer.start()
        while len(found) < n or writer.is_alive():
            events.wait(min(inbox.due_in_s() or 1.0, 1.0))
            found += inbox.scan() + inbox.check_settled()
        writer.join()
        time.sleep(0.2)
        found += inbox.scan(deep=True) + inbox.check_settled()
    assert sorted(arrival.id for arrival in found) == sorted(f"{i}.jpg" for i in range(n))


def test_restarts_are_further_and_further_apart(root, monkeypatch):
    pauses = []
    events = Events(root, back_off_s=(1.0, 60.0))

    def wait(seconds):
        pauses.append(seconds)
        if len(pauses) == 8:
            events._stop.set()
            events.is_subscribed = False

    monkeypatch.setattr(events._stop, "wait", wait)
    monkeypatch.setattr(events, "_listen", lambda: 1 / 0)
    events._supervise()
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_nothing_is_left_running(root):
    before = threading.active_count()
    events = Events(root)
    with events:
        until(lambda: events.is_subscribed)
    assert threading.active_count() == before
    events.wake()  # a late signal does no harm
    with pytest.raises(OSError, match="Bad file descriptor"):
        events.wait(0.0)


def test_without_events_only_wake_wakes(root):
    with Events(root, events=False) as events:
        (root / "x.jpg").write_bytes(b"image")
        assert not events.wait(0.3)
        assert not events.is_subscribed
        events.wake()
        events.wake()
        assert events.wait(30.0)
        assert not events.wait(0.0)
        for _ in range(100_000):  # more than a socket holds
            events.wake()
        assert events.wait(0.0)


WAITS = """
import signal, sys
from pathlib import Path
from runners.watch.inbox.events import Events
with Events(Path(sys.argv[1]), events=False) as events:
    signal.signal(signal.SIGUSR1, lambda *_: events.wake())
    print("ready", flush=True)
    print(events.wait(60.0))
"""


def test_a_handler_of_a_signal_runs_and_wakes_while_waiting(root):
    command = [sys.executable, "-c", WAITS, str(root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)  # it waits by now; if not, it must be woken all the same
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == "True\n"
