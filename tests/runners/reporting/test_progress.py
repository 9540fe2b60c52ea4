"""Progress on a terminal and in a log."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import DecodeError
from pipeline.system import terminal
from runners.reporting import progress
from runners.reporting.progress import Progress, announce_loading

LONG = "a long name with spaces in it, as people have them on their disks, and more (1).jpg"


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (terminal, progress):
        monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("TERM", raising=False)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.usefixtures("on_terminal")
def test_the_bar(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(4).shown() as bar:
        bar.advance("a.jpg")
        bar.advance(LONG, DecodeError("not an image " * 9))
        bar.advance("b.jpg", not_to_do=1)
    err = capfd.readouterr().err
    assert "\x1b[1;31merror:" in err
    lines = [part for line in plain(err).split("\n") for part in line.split("\r")]
    assert max(len(line.rstrip()) for line in lines if LONG not in line) <= 80
    assert LONG in plain(err), "a line break in a file's name would change it"
    assert "3/3" in lines[-1] or "3/3" in lines[-2]
    assert "1 failed" in plain(err)
    assert "left" in plain(err)


@pytest.mark.usefixtures("on_terminal")
def test_no_bar_stays_when_there_was_nothing_to_do(capfd: pytest.CaptureFixture[str]) -> None:
    erased = "\x1b[2K"
    with Progress(4).shown():
        pass
    assert capfd.readouterr().err.rstrip("\r\n").endswith(erased)
    with Progress(4).shown() as bar:
        bar.advance("a.jpg")
    assert not capfd.readouterr().err.rstrip("\r\n").endswith(erased)


def test_a_log_has_lines(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(10).shown() as shown:
        shown.advance("a.jpg")
        now[0] += 40
        shown.advance("b.jpg", DecodeError("empty file"))
        shown.advance("c.jpg")
    assert capfd.readouterr().err.splitlines() == [
        "error: b.jpg: decode: empty file",
        "2/10 inputs, 1 failed, 20.0 s each, 160 s left",
    ]


def test_frames_of_videos_count(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(2).shown() as shown:
        shown.forwarded(4, 1.0)  # of an image
        now[0] += 40
        shown.forwarded(4, 1.0)
        assert capfd.readouterr().err == ""
        shown.has_videos = True
        shown.forwarded(72, 1.0)
        now[0] += 40
        shown.advance("a.mp4")
    assert capfd.readouterr().err.splitlines() == [
        "0/2 inputs, 80 frames, 2.0/s",
        "1/2 inputs, 80 frames, 1.0/s, 80 s left",
    ]


@pytest.mark.usefixtures("on_terminal")
def test_quiet_prints_errors_only(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(2, quiet=True).shown() as shown:
        shown.advance("a.jpg")
        shown.advance("b.jpg", DecodeError("empty file"))
    assert plain(capfd.readouterr().err) == "error: b.jpg: decode: empty file\n"


def job(**config: Any) -> Any:
    config = {"quiet": False, "device": "cpu", "runnable": {"_target_": "x.Detectron2"}} | config
    return SimpleNamespace(
        config=config, model=SimpleNamespace(identity=lambda: {"name": "s", "tag": "shapes:1"})
    )


@pytest.mark.usefixtures("on_terminal")
@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({}, "loading shapes:1 on cpu\n"),
        ({"device": "auto"}, "loading shapes:1\n"),
        ({"quiet": True}, ""),
        ({"runnable": {"_target_": "pipeline.runnables.fake.FakeRunnable"}}, ""),
    ],
)
def test_what_is_loaded(
    capfd: pytest.CaptureFixture[str], config: dict[str, Any], line: str
) -> None:
    announce_loading(job(**config))
    assert capfd.readouterr().err == line


def test_a_log_does_not_say_what_is_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    announce_loading(job())
    assert capfd.readouterr().err == ""
