from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import DecodeError
from runners.watch.messages import Messages


@pytest.fixture
def messages(clock):
    return Messages(quiet=False, clock=clock)


@pytest.fixture
def printed(capsys):
    def lines():
        out, err = capsys.readouterr()
        assert out == ""
        return err.splitlines()

    return lines


def test_one_line_per_file(messages, printed):
    messages.file_done("line2/0412.jpg", {"spall": 1, "crack": 12})
    messages.file_done("empty.jpg", {})
    messages.file_done("many.jpg", {f"class {i}": 9 - i for i in range(8)})
    messages.file_failed("half.jpg", DecodeError("truncated"))
    assert printed() == [
        "line2/0412.jpg: 12 crack, 1 spall",
        "empty.jpg: no detections",
        "many.jpg: 9 class 0, 8 class 1, 7 class 2, 6 class 3, 5 class 4, 9 of other classes",
        "error: half.jpg: decode: truncated",
    ]


def test_many_files_are_counted_per_minute(messages, clock, printed):
    for i in range(100):
        messages.file_done(f"{i}.jpg", {})
    assert printed() == [f"{i}.jpg: no detections" for i in range(20)]
    messages.update()
    assert printed() == []
    clock.now += 60.0
    messages.update()
    assert printed() == ["80 more files done in the last minute"]
    for i in range(30):  # as many in the next minute: no lines for single files
        messages.file_done(f"{i}.jpg", {})
    messages.file_failed("half.jpg", DecodeError("truncated"))
    messages.waiting_to_settle("x.jpg", 1)
    clock.now += 60.0
    messages.file_done("late.jpg", {})
    assert printed() == [
        "error: half.jpg: decode: truncated",
        "30 files done in the last minute",
    ]
    clock.now += 60.0
    messages.file_done("x.jpg", {})
    assert printed() == ["1 file done in the last minute", "x.jpg: no detections"]


def test_waiting_is_reported_once(messages, clock, printed):
    for _ in range(2):
        messages.waiting_for_files("inbox/", 10.0)
        messages.waiting_to_settle("x.jpg", 1)
    messages.waiting_to_settle("y.jpg", 3)
    assert printed() == [
        "waiting for files in inbox/ (poll every 10 s)",
        "waiting for x.jpg to settle",
        "waiting for y.jpg and 2 more to settle",
    ]


def test_the_end_reports_what_was_only_counted(messages, printed):
    for i in range(25):
        messages.file_done(f"{i}.jpg", {})
    printed()
    messages.flush()
    messages.flush()
    assert printed() == ["5 more files done"]


def test_a_stop_reports_what_is_kept_and_how_to_resume(messages, printed, monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["python", "run.py", "runner=watch", "input=in box"])
    messages.stopped(1, Path("/srv/out"))
    messages.stopped(312, Path("out").absolute())
    messages.resume_command(Path("/srv/out"))
    assert printed() == [
        "stopped; 1 result is kept in /srv/out",
        "stopped; 312 results are kept in out",
        "resume with: python run.py runner=watch 'input=in box' output=/srv/out",
    ]


def test_quiet_prints_errors_only(clock, printed):
    messages = Messages(quiet=True, clock=clock)
    messages.file_done("x.jpg", {"crack": 1})
    messages.waiting_for_files("inbox", 10.0)
    messages.waiting_to_settle("x.jpg", 1)
    messages.flush()
    messages.stopped(1, Path("out"))
    messages.resume_command(Path("out"))
    messages.error("no space left on device")
    messages.resolved("no space left on device")
    messages.file_failed("half.jpg", DecodeError("truncated"))
    assert printed() == [
        "error: no space left on device",
        "resolved: no space left on device",
        "error: half.jpg: decode: truncated",
    ]
