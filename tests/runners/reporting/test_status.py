from __future__ import annotations

import errno
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import runners.reporting.status
from pipeline.errors import ConfigError, OutputError
from runners.reporting.status import Status

NEVER_S = 3600.0  # the thread writes nothing: only entering and leaving do


class Clock:
    """A clock that advances only on request."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "status.json").read_text("ascii"))
    return content


def until(true: Callable[[], bool]) -> None:
    while not true():  # pytest-timeout ends what never comes
        time.sleep(0.001)


def test_the_keys_and_their_values(tmp_path: Path, clock: Clock) -> None:
    status = Status(tmp_path, total=10, clock=clock, every_s=NEVER_S)
    with status:
        started = read(tmp_path)
        status.update(state="running", pending=3, earlier=2, current="c.jpg")
        clock.now += 2
        status.advance("done", "a.jpg", seconds={"forward": 1.5, "decode": 0.25}, instances=4)
        status.advance("failed", "b.jpg", seconds={"decode": 0.25})
        now = status.snapshot()
    assert started["state"] == "loading"
    assert started["counts"] == {"done": 0, "failed": 0}
    assert started["inputs_per_s"] is started["eta_s"] is started["last"] is None
    assert now["counts"] == {"done": 1, "failed": 1, "earlier": 2}
    assert (now["total"], now["pending"], now["pid"]) == (10, 3, os.getpid())
    assert (now["inputs_per_s"], now["eta_s"]) == (1.0, 6.0)
    assert (now["current"], now["last"]) == ({"asset": "c.jpg"}, {"asset": "b.jpg"})
    assert status.seconds == {"forward": 1.5, "decode": 0.5}
    assert status.instances == 4
    for key in ("started", "updated", "last_commit"):
        stamp = datetime.fromisoformat(now[key])
        assert stamp.utcoffset() == timedelta(0)
        assert abs(datetime.now(timezone.utc) - stamp) < timedelta(hours=1)
    assert read(tmp_path)["state"] == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize(
    ("pace", "expected"),
    [
        pytest.param([0.01] * 5000, 100.0, id="fast"),
        pytest.param([0.5] * 100, 2.0, id="two a second"),
        pytest.param([90.0] * 30, 1 / 90, id="slower than the window"),
        pytest.param([0.1] * 600 + [1.0] * 90, 1.0, id="it became slow"),
        pytest.param([10.0] * 20 + [0.1] * 900, 10.0, id="it became fast"),
        pytest.param([5.0], 0.2, id="the first"),
    ],
)
def test_the_rate_is_that_of_the_last_minute(
    tmp_path: Path, clock: Clock, pace: list[float], expected: float
) -> None:
    status = Status(tmp_path, total=len(pace) + 100, clock=clock)
    status.update(state="loading")
    clock.now += 500  # loading the model is no part of the rate
    status.update(state="running")
    for seconds in pace:
        clock.now += seconds
        status.advance("done", "x")
        assert status.snapshot()["inputs_per_s"] is not None
    now = status.snapshot()
    assert now["inputs_per_s"] == pytest.approx(expected, rel=0.05)
    assert now["eta_s"] == pytest.approx(100 / expected, rel=0.05)


def test_the_rate_falls_when_nothing_comes(tmp_path: Path, clock: Clock) -> None:
    status = Status(tmp_path, clock=clock)
    status.update(state="running")
    for _ in range(600):
        clock.now += 0.1
        status.advance("done", "x")
    clock.now += 36_000
    now = status.snapshot()
    assert now["inputs_per_s"] < 0.02
    assert now["eta_s"] is None  # no total, no end


def test_skipped_inputs_are_not_work(tmp_path: Path, clock: Clock) -> None:
    status = Status(tmp_path, total=1_000_010, clock=clock)
    status.update(state="running", earlier=1_000_000)
    clock.now += 5
    for _ in range(5):
        status.advance("done", "x")
    now = status.snapshot()
    assert (now["inputs_per_s"], now["eta_s"]) == (1.0, 5.0)


def test_counting_touches_no_disk(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(
        runners.reporting.status, "write_whole", lambda path, *_, **__: written.append(path)
    )
    with Status(tmp_path, clock=clock, every_s=NEVER_S) as status:
        for i in range(10_000):
            clock.now += 1
            status.advance("done", f"{i}.jpg")
            status.update(pending=i)
            status.health(bool(i % 2), "every other")
        assert [path.name for path in written] == ["status.json"]
    assert [path.name for path in written[1:]] == ["status.json", "health"]


def test_the_thread_writes_what_has_changed(tmp_path: Path) -> None:
    with Status(tmp_path, every_s=0.001) as status:
        status.advance("done", "x")
        until(lambda: read(tmp_path)["counts"]["done"] == 1)
        status.update(state="draining")
        until(lambda: read(tmp_path)["state"] == "draining")


def test_the_thread_writes_again_what_has_not_changed(tmp_path: Path, clock: Clock) -> None:
    with Status(tmp_path, every_s=0.001, clock=clock) as status:
        status.health(True)
        until((tmp_path / "health").exists)
        paths = [tmp_path / name for name in ("health", "status.json")]
        for path in paths:
            os.utime(path, (0, 0))
        clock.now += 10
        until(lambda: all(path.stat().st_mtime > 0 for path in paths))


def test_nothing_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(fd: int) -> None:
        raise AssertionError("fsync")

    monkeypatch.setattr(os, "fsync", no)
    with Status(tmp_path, metrics=True) as status:
        status.health(True)
    assert read(tmp_path)["state"] == "finished"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        pytest.param(None, "unhealthy: not running (the run ended)", id="end"),
        pytest.param(
            OutputError("disk full"), "unhealthy: not running (OutputError: disk full)", id="error"
        ),
        pytest.param(KeyboardInterrupt(), "unhealthy: not running (KeyboardInterrupt)", id="^C"),
    ],
)
def test_what_is_left_at_the_end(tmp_path: Path, error: BaseException | None, says: str) -> None:
    try:
        with Status(tmp_path, every_s=NEVER_S) as status:
            status.update(current="x")
            status.health(True)
            if error:
                raise error
    except (OutputError, KeyboardInterrupt):
        assert error
    left = read(tmp_path)
    assert left["state"] == ("stopped" if error else "finished")
    assert left["current"] is None
    first, second = (tmp_path / "health").read_text().splitlines()
    assert (first, second) == (says, left["updated"])
    assert left["health"] == first


def test_nothing_is_left_when_nothing_was_started(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), Status(tmp_path, metrics=True) as status:  # noqa: PT012
        status.health(True)
        raise ConfigError("no such device")
    assert list(tmp_path.iterdir()) == []


def test_health(tmp_path: Path) -> None:
    def first() -> str:
        path = tmp_path / "health"
        return path.read_text().splitlines()[0] if path.exists() else ""

    with Status(tmp_path, every_s=0.001) as status:
        assert first() == ""  # not requested yet
        status.health(True)
        until(lambda: first() == "ok")
        status.health(False, "input\ngone \x1b[31m https://me:hush@host/x " + os.fsdecode(b"\xff"))
        said = r"unhealthy: input\ngone \x1b[31m https://***@host/x \udcff"
        until(lambda: first() == said)
        assert len((tmp_path / "health").read_text().splitlines()) == 2
        status.health(True)
        until(lambda: first() == "ok")


ODD = [b"\xff.jpg", b"a\nb\t\x1b[31m.jpg", b'"\\%s{}.jpg', "ü😀/é.jpg".encode(), b"-x" * 120]


@pytest.mark.parametrize("name", ODD)
def test_odd_names(tmp_path: Path, name: bytes) -> None:
    asset_id = os.fsdecode(name)
    with Status(tmp_path, every_s=NEVER_S) as status:
        status.update(current=asset_id)
        assert status.snapshot()["current"] == runners.reporting.status.asset_keys(asset_id)
        status.advance("failed", asset_id)
        assert status.snapshot()["current"] is None
    last = read(tmp_path)["last"]
    if name.isascii() or b"\xff" not in name:
        assert last == {"asset": asset_id}
    else:
        assert last == {"asset": r"\xff.jpg", "asset_b64": "/y5qcGc="}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EMFILE])
def test_a_disk_that_fails_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    tries = []
    # other libraries' logging configurations, which other tests import, silence who came before
    log = logging.getLogger("d2run")
    monkeypatch.setattr(log, "disabled", False)
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.WARNING, log.name)

    def full(*_: object, **__: object) -> None:
        tries.append(1)
        raise OSError(code, os.strerror(code))

    with Status(tmp_path, every_s=0.001) as status:
        with monkeypatch.context() as patch:
            patch.setattr(runners.reporting.status, "write_whole", full)
            status.advance("done", "x")
            until(lambda: len(tries) > 3)
        until(lambda: read(tmp_path)["counts"]["done"] == 1)  # once there is space again
    (said,) = caplog.messages  # not one line a second
    assert os.strerror(code) in said
    assert "status.json" in said
    assert read(tmp_path)["state"] == "finished"


def test_a_disk_that_hangs_does_not_keep_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, again = threading.Event(), threading.Event()
    write_whole = runners.reporting.status.write_whole

    def hang(path: Path, data: bytes | str, **options: bool) -> None:
        if threading.current_thread().name == "status":
            hanging.set()
            again.wait()
        write_whole(path, data, **options)

    monkeypatch.setattr(runners.reporting.status, "write_whole", hang)
    monkeypatch.setattr(runners.reporting.status, "_HUNG_DISK_S", 0.01)
    with Status(tmp_path, every_s=0.001) as status:
        status.advance("done", "x")
        hanging.wait()
    (writer,) = [thread for thread in threading.enumerate() if thread.name == "status"]
    again.set()
    writer.join()


def test_a_directory_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "mount" / "results"
    folder.mkdir(parents=True)
    with Status(folder, every_s=NEVER_S) as status:
        (folder / "status.json").unlink()
        folder.rmdir()
        status.advance("done", "x")
    assert not folder.exists()


def test_a_reader_sees_only_whole_files(tmp_path: Path) -> None:
    done = threading.Event()

    def work(status: Status) -> None:
        for i in range(20_000):
            status.advance("done", "x" * (i % 997))
        done.set()

    with Status(tmp_path, metrics=True, every_s=0.0) as status:
        status.health(True)
        until(lambda: "d2run_healthy" in (tmp_path / "metrics.prom").read_text())
        threading.Thread(target=work, args=[status]).start()
        seen = 0
        while not done.is_set() or seen < 100:
            assert read(tmp_path)["pid"] == os.getpid()
            assert re.search(r"\nd2run_\w+ \S+\n\Z", (tmp_path / "metrics.prom").read_text())
            assert len((tmp_path / "health").read_text().splitlines()) == 2
            seen += 1
    assert read(tmp_path)["counts"] == {"done": 20_000, "failed": 0}


def test_a_handler_may_call_in_the_middle_of_a_call(tmp_path: Path) -> None:
    status = Status(tmp_path)

    class Seconds(dict[str, float]):
        def items(self) -> Any:
            status.update(state="draining")  # as a signal handler does, on the same thread
            return super().items()

    status.advance("done", "x", seconds=Seconds(forward=1.0))
    assert status.snapshot()["state"] == "draining"
