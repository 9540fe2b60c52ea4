"""Faults around a watch: no file is lost, and none is processed twice."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, write_picture
from processes import wait_for
from watched import IN_THIS_PROCESS, Watched

import runners.rundir.readers as readers
from pipeline.errors import ConfigError, OutputError, RootGoneError
from pipeline.runnables.fake import FakeRunnable
from pipeline.sources.decode import reading
from pipeline.sources.decode.workers import DecodeWorkers
from runners.rundir import input_order, lists
from runners.rundir.journal import Journal
from runners.rundir.ledger.ledger import Ledger
from runners.watch import loop, schedule
from runners.watch.files.postprocessing import PostProcessing

HERE = IN_THIS_PROCESS


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(schedule, "BACK_OFF_S", (0.05, 0.2))
    watched = Watched(tmp_path, monkeypatch)
    yield watched
    watched.abandon()


def put_image(path: Path, seed: int = 0, mtime_s: float | None = 1e9) -> str:
    """Write an image file; return its SHA-256."""
    image = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    write_picture(path, image)
    if mtime_s is not None:
        os.utime(path, (mtime_s, mtime_s))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def broken(path: Path) -> None:
    put_image(path)
    os.truncate(path, path.stat().st_size // 2)


def digests(watched: Watched) -> dict[str, str]:
    """Return the SHA-256 of each input, by id; each id is listed once."""
    lines = watched.lines("inputs.jsonl")
    assert len({line["asset"] for line in lines}) == len(lines)
    return {line["asset"]: line["sha256"] for line in lines}


def times(name: str, owner: object, n: int, exc: Exception, patch: pytest.MonkeyPatch) -> Counter:
    """Make a function raise at its next ``n`` calls; return a counter of the calls."""
    original, met = getattr(owner, name), Counter[str]()

    def failing(*args: object, **kwargs: object) -> object:
        met[name] += 1
        if met[name] <= n:
            raise exc
        return original(*args, **kwargs)

    patch.setattr(owner, name, failing)
    return met


def check_each_once(watched: Watched, *ids: str) -> None:
    assert watched.assets() == watched.assets("inputs.jsonl") == sorted(ids)
    assert watched.lines("failures.jsonl") == []


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name", "exc"),
    [
        (Journal, "append", FULL),
        (Journal, "sync", FULL),
        (lists, "write_line", FULL),
        (lists, "write_failures", FULL),
        (input_order, "put_in_order", FULL),
        (Ledger, "put", OutputError("cannot write the ledger: disk is full")),
        (Ledger, "commit", OutputError("cannot write the ledger: disk is full")),
    ],
)
def test_an_output_that_fails_for_a_while(
    owner: object,
    name: str,
    exc: Exception,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    watched.start(HERE)
    put_image(watched.inbox / "first.png")
    watched.wait_for_assets("first.png")
    wait_for(lambda: watched.status()["state"] == "idle")
    met = times(name, owner, 3, exc, monkeypatch)
    for i in range(40):  # more than one commit holds
        put_image(watched.inbox / f"{i}.png", i)
    watched.hang_up()
    watched.wait_for_health("unhealthy: cannot write the ")
    wait_for(lambda: met[name] > 3)
    watched.wait_for_health("ok")
    wait_for(lambda: len(set(watched.assets("inputs.jsonl"))) == 41)
    assert watched.stop().counts == {"done": 41, "failed": 0}
    check_each_once(watched, "first.png", *(f"{i}.png" for i in range(40)))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "resolved"]


@pytest.mark.parametrize("after", ["move", "delete"])
def test_a_ledger_that_fails_before_files_are_moved(
    after: str, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claimed files are restored, and claimed again."""
    commit, fails_at = Ledger.commit, [2, 3, 5]

    def failing(self: Ledger, position: object = None) -> None:
        if position is None and watched.assets("inputs.jsonl") and fails_at:
            fails_at.pop()
            raise OutputError("cannot write the ledger: disk is full")
        commit(self, position)  # type: ignore[arg-type]

    watched.start(HERE, f"runner.after={after}", "runner.settle_s=0.2")
    wait_for(lambda: watched.status()["state"] == "idle")
    monkeypatch.setattr(Ledger, "commit", failing)
    for i in range(3):
        put_image(watched.inbox / f"{i}.png", i)
    wait_for(lambda: not fails_at)
    wait_for(lambda: not list(watched.inbox.glob("*.png")))
    assert watched.stop().counts == {"done": 3, "failed": 0}
    check_each_once(watched, "0.png", "1.png", "2.png")
    assert len(list(watched.inbox.glob("done/*"))) == (3 if after == "move" else 0)


def test_a_disk_that_is_full(watched: Watched) -> None:
    watched.out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(watched.out)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        watched.start(HERE, "sink=[coco,overlay]")
        put_image(watched.inbox / "first.png")
        watched.wait_for_assets("first.png")
        ballast = watched.out / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for i in range(50):
            put_image(watched.inbox / f"{i}.png", i)
        watched.wait_for_health("unhealthy: cannot write the ")
        os.truncate(ballast, ballast.stat().st_size - (256 << 10))  # filled again soon
        time.sleep(0.5)
        ballast.unlink()
        wait_for(lambda: len(set(watched.assets("inputs.jsonl"))) == 51)
        watched.wait_for_health("ok")
        assert watched.stop().exit_status == 0
        check_each_once(watched, "first.png", *(f"{i}.png" for i in range(50)))
        assert len(list(watched.out.glob("overlay/*.jpg"))) == 51
        assert not list(watched.out.glob(".*.part"))
    finally:
        watched.abandon()
        subprocess.run(["umount", str(watched.out)], check=True)


def test_a_done_tree_that_cannot_be_written(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = tmp_path / "archive"
    done.write_text("in the way")
    ids = [f"sub/{i}.png" for i in range(20)]
    for i, name in enumerate(ids):
        put_image(watched.inbox / name, i)
    watched.start(HERE, "runner.after=move", f"runner.done={done}")
    watched.wait_for_assets(*ids)
    watched.wait_for_health(f"unhealthy: cannot move {watched.inbox}/sub/")
    assert len(list(watched.inbox.glob("sub/*"))) == 20
    done.unlink()
    wait_for(lambda: len(list(done.glob("sub/*.png"))) == 20)
    watched.wait_for_health("ok")
    assert watched.stop().exit_status == 0
    check_each_once(watched, *ids)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, lines  # not one per file
    assert watched._status.counts["done"] == 20


def test_a_single_pass_that_cannot_move_says_so(watched: Watched, tmp_path: Path) -> None:
    done = tmp_path / "archive"
    done.write_text("in the way")
    put_image(watched.inbox / "x.png")
    job = (HERE, "runner.after=move", f"runner.done={done}", "runner.max_passes=1")
    watched.start(*job)
    report = watched.wait()
    assert (report.exit_status, report.message[:11]) == (1, "cannot move")
    done.unlink()
    watched.start(*job)
    report = watched.wait()
    assert (report.exit_status, report.counts["done"]) == (0, 0)
    assert (done / "x.png").exists()
    check_each_once(watched, "x.png")


@pytest.mark.parametrize(
    ("after", "step"), [("move", "claim"), ("delete", "verify"), ("move", "apply")]
)
def test_killed_between_commit_and_move(
    after: str, step: str, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished inputs are not processed again; a failure is counted once and reported."""
    for name in ("a.png", "b.png"):
        put_image(watched.inbox / name)
    broken(watched.inbox / "c.png")
    job = (HERE, f"runner.after={after}", "runner.ready=rename")
    with monkeypatch.context() as patch:

        def killed(*args: object) -> None:
            raise SystemExit("killed")

        patch.setattr(PostProcessing, step, killed)
        patch.setattr(
            PostProcessing, "restore", lambda *args: None
        )  # a killed process restores nothing
        watched.start(*job)
        with pytest.raises(SystemExit):
            watched.wait()
    assert watched.assets("inputs.jsonl") == ["a.png", "b.png", "c.png"]
    watched.start(*job, "runner.max_passes=1")
    report = watched.wait()
    assert report.exit_status == 3
    assert report.counts["done"] == 0
    assert watched.status()["counts"] == {"done": 2, "failed": 1}
    assert watched.assets("failures.jsonl") == ["c.png"]
    left = ["done/a.png", "done/b.png"] if after == "move" else []
    found = [str(path.relative_to(watched.inbox)) for path in watched.inbox.glob("**/*.png")]
    assert sorted(found) == [*left, "failed/c.png"]
    assert watched.assets() == ["a.png", "b.png"]
    watched.start(*job, "runner.max_passes=1")  # everything has been reported
    assert (watched.wait().exit_status, watched.status()["counts"]["failed"]) == (0, 0)


@pytest.mark.parametrize("after", ["keep", "move", "delete"])
def test_every_failure_is_counted(after: str, watched: Watched) -> None:
    """There are more than one commit holds, so some are moved before others are committed."""
    n = 70
    for i in range(n):
        broken(watched.inbox / f"{i}.png")
    put_image(watched.inbox / "good.png")
    watched.start(HERE, f"runner.after={after}", "runner.ready=rename", "runner.max_passes=1")
    report = watched.wait()
    assert (report.exit_status, report.counts) == (3, {"done": 1, "failed": n})
    assert watched.status()["counts"] == {"done": 1, "failed": n}
    assert f'd2run_inputs_total{{outcome="failed"}} {n}.0' in watched.metrics()
    assert len(watched.lines("failures.jsonl")) == n


@pytest.mark.parametrize("after", ["keep", "move"])
def test_failures_stop_it_however_often_it_is_killed(
    after: str, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = (HERE, f"runner.after={after}", "runner.max_failures=5", "runner.ready=rename")
    for i in range(3):
        broken(watched.inbox / f"{i}.png")
    watched.start(*job)
    wait_for(lambda: watched.status()["counts"]["failed"] == 3)
    with monkeypatch.context() as patch:
        patch.setattr(loop.WatchLoop, "_end", lambda self: sys.exit("killed"))
        with pytest.raises(SystemExit):
            watched.stop()
    for i in range(40):
        broken(watched.inbox / f"more {i}.png")
    watched.start(*job)
    report = watched.wait()
    assert (report.exit_status, watched.status()["counts"]["failed"]) == (4, 6)
    assert report.message.startswith("stopped by runner.max_failures=5: 6 inputs failed")


@pytest.mark.parametrize(
    ("after", "reopens"), [("keep", True), ("move", False), ("move", True), ("delete", False)]
)
def test_a_writer_that_pauses(after: str, reopens: bool, watched: Watched) -> None:
    """Longer than settle_s. While it holds the file open, it may pause for any time."""
    path = watched.inbox / "x.png"
    whole = put_image(path)
    data = path.read_bytes()
    path.unlink()
    watched.start(HERE, f"runner.after={after}", "runner.max_failures=0", "runner.settle_s=0.3")
    with path.open("wb", buffering=0) as file:
        file.write(data[:900])
        put_image(watched.inbox / "first.png", 1)
        watched.wait_for_assets("first.png")  # x.png has had time to settle, and its end is missing
        if not reopens:
            time.sleep(2.5)
            file.write(data[900:])
    if reopens:
        wait_for(lambda: watched.status()["pending"] == 1)
        time.sleep(0.6)
        with path.open("ab") as file:
            file.write(data[900:])
    wait_for(lambda: "x.png" in watched.assets("inputs.jsonl"))
    report = watched.stop()
    assert (report.exit_status, report.counts) == (0, {"done": 2, "failed": 0})
    assert digests(watched)["x.png"] == whole
    assert path.exists() is (after == "keep")
    assert not list(watched.inbox.glob("failed/*"))


def test_a_file_that_stays_open_is_reported(watched: Watched) -> None:
    put_image(watched.inbox / "x.png")
    with (watched.inbox / "x.png").open("ab"):
        watched.start(HERE, "runner.after=delete", "runner.max_passes=1")
        assert watched.wait().counts == {"done": 0, "failed": 0}
    text = "skipped: x.png: still open for writing"
    assert text in (watched.out / "run.log").read_text()
    assert (watched.inbox / "x.png").exists()


@pytest.mark.parametrize("after", ["move", "delete"])
def test_a_name_that_comes_again(after: str, watched: Watched) -> None:
    path, sums = watched.inbox / "IMG_0001.png", []
    job = (HERE, f"runner.after={after}", "sink=[coco,overlay]")
    for i in range(3):
        watched.start(*job)
        sums.append(put_image(path, i))
        wait_for(lambda: not path.exists())
        assert watched.stop().counts == {"done": 1, "failed": 0}
    ids = ["IMG_0001.png", "IMG_0001~2.png", "IMG_0001~3.png"]
    assert digests(watched) == dict(zip(ids, sums, strict=True))
    check_each_once(watched, *ids)
    assert aggregated(watched) == 3
    assert sorted(p.name for p in watched.out.glob("overlay/*")) == [f"{name}.jpg" for name in ids]
    if after == "move":
        for name, digest in zip(ids, sums, strict=True):
            data = (watched.inbox / "done" / name).read_bytes()
            assert hashlib.sha256(data).hexdigest() == digest


def test_a_name_that_comes_again_after_a_repair(watched: Watched) -> None:
    path = watched.inbox / "x.png"
    watched.start(HERE, "runner.after=move")
    first = put_image(path, 1)
    wait_for(lambda: not path.exists())
    watched.stop()
    (watched.out / "ledger.sqlite").write_bytes(b"damaged")
    watched.repair()
    watched.start(HERE, "runner.after=move")
    second = put_image(path, 2)
    wait_for(lambda: not path.exists())
    watched.stop()
    assert digests(watched) == {"x.png": first, "x~2.png": second}


@pytest.mark.parametrize("after", ["move", "delete"])
def test_the_inbox_is_never_left(after: str, watched: Watched, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    for name in ("x.png", "deep/y.png"):
        put_image(victim / name)
    (watched.inbox / "sub").mkdir()
    for link in ("linked", "sub/linked"):
        (watched.inbox / link).symlink_to(victim)
    put_image(watched.inbox / "sub" / "mine.png")
    broken(watched.inbox / "bad.png")
    watched.start(HERE, f"runner.after={after}", "runner.max_passes=1")
    report = watched.wait()
    assert (report.exit_status, report.counts) == (3, {"done": 1, "failed": 1})
    assert watched.assets("inputs.jsonl") == ["bad.png", "sub/mine.png"]
    assert len(list(victim.rglob("*.png"))) == 2
    assert (
        "linked and 1 more: linked directory (followed only with runner.after=keep)"
        in (watched.out / "run.log").read_text()
    )


def test_a_tree_that_is_swapped_for_a_link(watched: Watched, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    watched.start(HERE, "runner.after=move")
    put_image(watched.inbox / "x.png")
    wait_for((watched.inbox / "done" / "x.png").exists)
    shutil.rmtree(watched.inbox / "done")
    (watched.inbox / "done").symlink_to(victim)
    put_image(watched.inbox / "y.png", 1)
    watched.wait_for_health(f"unhealthy: cannot move {watched.inbox}/y.png to ")
    assert "done is a symbolic link, which is not followed" in watched.status()["health"]
    assert list(victim.iterdir()) == []
    assert (watched.inbox / "y.png").exists()
    (watched.inbox / "done").unlink()
    wait_for((watched.inbox / "done" / "y.png").exists)
    watched.wait_for_health("ok")
    watched.stop()


@pytest.mark.parametrize("option", ["done", "failed"])
def test_a_tree_that_is_a_link_is_refused(option: str, watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (watched.inbox / option).symlink_to(tmp_path / "victim")
    watched.start(HERE, "runner.after=move")
    with pytest.raises(ConfigError, match=f"runner.{option}: .* symbolic link in the watched"):
        watched.wait()
    watched.start(HERE, "runner.after=move", f"runner.{option}={tmp_path}/victim")
    watched.stop()


@pytest.mark.parametrize("after", ["keep", "move"])
def test_a_file_that_changes_while_it_is_processed(
    after: str, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = watched.inbox / "x.png"
    put_image(path, 1)
    predict, later = FakeRunnable.predict, list[str]()

    def meanwhile(self: FakeRunnable, frames: list) -> list:
        if not later:
            later.append(put_image(path, 2, mtime_s=2e9))
        return predict(self, frames)

    monkeypatch.setattr(FakeRunnable, "predict", meanwhile)
    watched.start(HERE, f"runner.after={after}")
    wait_for(lambda: [line["sha256"] for line in watched.lines("inputs.jsonl")][1:] == later != [])
    assert watched.stop().counts == {"done": 2, "failed": 0}
    assert digests(watched) == {"x.png": later[0]}
    check_each_once(watched, "x.png")
    assert path.exists() is (after == "keep")


def test_a_half_that_becomes_whole_while_it_is_read_has_not_failed(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = watched.inbox / "x.png"
    broken(path)
    decode, whole = reading.decode_image, list[str]()

    def meanwhile(data: bytes, **options: object) -> object:
        if not whole:
            whole.append(put_image(path, 2, mtime_s=2e9))
        return decode(data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "decode_image", meanwhile)
    watched.start(HERE, "runner.max_failures=0")
    wait_for(lambda: [line["outcome"] for line in watched.lines("inputs.jsonl")][-1:] == ["done"])
    assert watched.stop().counts == {"done": 1, "failed": 0}
    assert digests(watched) == {"x.png": whole[0]}
    check_each_once(watched, "x.png")
    assert capsys.readouterr().err == ""


def test_versions_of_one_name(watched: Watched) -> None:
    """New content, the same content touched, and old content restored: the latest counts."""
    path = watched.inbox / "x.png"
    first = put_image(path, 1, mtime_s=1e9)
    watched.start(HERE)
    watched.wait_for_assets("x.png")
    second = put_image(path, 2, mtime_s=1.1e9)
    watched.wait_for_assets("x.png", "x.png")
    os.utime(path, (1.2e9, 1.2e9))
    put_image(watched.inbox / "y.png")  # a later change, which is found together with the touch
    watched.wait_for_assets("x.png", "x.png", "y.png")
    assert watched.lines("inputs.jsonl")[1]["sha256"] == second
    put_image(path, 1, mtime_s=1e9)
    watched.wait_for_assets("x.png", "x.png", "x.png", "y.png")
    assert watched.stop().counts == {"done": 4, "failed": 0}
    assert digests(watched)["x.png"] == first
    check_each_once(watched, "x.png", "y.png")


def test_the_same_file_again(watched: Watched) -> None:
    path, done = watched.inbox / "x.png", watched.inbox / "done"
    put_image(path)
    watched.start(HERE, "runner.after=move")
    wait_for((done / "x.png").exists)
    for mtime_s in (1e9, 1.1e9):  # the same file, and a copy: not processed, but moved
        put_image(path, mtime_s=mtime_s)
        wait_for(lambda: not path.exists())
    assert watched.stop().counts == {"done": 1, "failed": 0}
    assert [file.name for file in done.iterdir()] == ["x.png"]
    check_each_once(watched, "x.png")


@pytest.fixture
def failing_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, str(ROOT / "tests" / "support" / "failing_decoder.py")]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(readers, "DecodeWorkers", partial(DecodeWorkers, command=command))


@pytest.mark.usefixtures("failing_decoder")
def test_a_poisoned_file(watched: Watched) -> None:
    (watched.inbox / "bad.png").write_bytes(b"fault:segfault")
    os.utime(watched.inbox / "bad.png", (1e9, 1e9))
    put_image(watched.inbox / "good.png")
    watched.start()
    watched.wait_for_assets("bad.png", "good.png")
    assert watched.stop().counts == {"done": 1, "failed": 1}
    (failure,) = watched.lines("failures.jsonl")
    assert (failure["error"], failure["attempts"]) == ("PoisonError", 3)
    for again, failed in (("false", 0), ("true", 1)):
        watched.start("runner.max_passes=1", f"runner.retry_failed={again}")
        report = watched.wait()
        assert (report.exit_status, report.counts) == (3 * failed, {"done": 0, "failed": failed})
    watched.start("runner.max_passes=1", "runner.after=move")
    assert watched.wait().counts == {"done": 0, "failed": 0}
    assert [path.name for path in watched.inbox.glob("failed/*")] == ["bad.png"]


@pytest.mark.usefixtures("failing_decoder")
def test_a_decoder_that_hangs_when_it_is_told_to_end(watched: Watched) -> None:
    (watched.inbox / "b.png").write_bytes(b"fault:hang")
    put_image(watched.inbox / "a.png")
    watched.start()
    wait_for(lambda: watched.status()["state"] == "running")
    time.sleep(1.0)  # until it hangs; if it does not yet, stopping is only easier
    report = watched.stop(abort=True)
    assert (report.exit_status, report.counts["failed"]) == (0, 0)
    assert watched.lines("failures.jsonl") == []
    assert watched.assets() in ([], ["a.png"])


def test_a_model_that_fails_at_one_file(watched: Watched) -> None:
    for name in ("bad.png", "good.png"):
        put_image(watched.inbox / name)
    watched.start(HERE, "+runnable.fail_on=[bad.png]", "runner.after=delete", "batch_size=2")
    watched.wait_for_assets("bad.png", "good.png")
    wait_for((watched.inbox / "failed" / "bad.png").exists)
    report = watched.stop()
    assert (report.exit_status, report.counts) == (0, {"done": 1, "failed": 1})
    assert [path.name for path in watched.inbox.glob("**/*.png")] == ["bad.png"]
    assert watched.assets("failures.jsonl") == ["bad.png"]


def test_more_failures_than_may_be(watched: Watched) -> None:
    for i in range(5):
        broken(watched.inbox / f"{i}.png")
    watched.start(HERE, "runner.max_failures=2")
    report = watched.wait()
    assert (report.exit_status, report.counts) == (4, {"done": 0, "failed": 3})
    assert report.message.startswith("stopped by runner.max_failures=2: 3 inputs failed")


def test_single_passes(watched: Watched) -> None:
    put_image(watched.inbox / "x.png")
    watched.start(HERE, "runner.max_passes=1")
    assert watched.wait().exit_status == 0
    broken(watched.inbox / "y.png")
    for _ in range(2):  # retried as long as the file is there
        watched.start(HERE, "runner.max_passes=1")
        report = watched.wait()
        assert (report.exit_status, report.counts) == (3, {"done": 0, "failed": 1})
    put_image(watched.inbox / "y.png", 5)
    watched.start(HERE, "runner.max_passes=2")
    report = watched.wait()
    assert (report.exit_status, report.counts) == (0, {"done": 1, "failed": 0})
    check_each_once(watched, "x.png", "y.png")


def test_a_file_that_never_settles_does_not_hold_a_pass(watched: Watched) -> None:
    restless, over = watched.inbox / "restless.png", threading.Event()
    restless.write_bytes(b"\x89PNG")
    put_image(watched.inbox / "x.png")

    def write() -> None:
        while not over.wait(0.02):
            with restless.open("ab") as file:
                file.write(b"more")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        watched.start(HERE, "runner.max_passes=1", "runner.settle_s=0.3")
        report = watched.wait()
    finally:
        over.set()
        writer.join()
    assert (report.exit_status, report.counts) == (0, {"done": 1, "failed": 0})
    check_each_once(watched, "x.png")


def test_a_root_that_goes_in_the_middle_and_comes_back(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"sub/{i}.png" for i in range(40)]
    for i, name in enumerate(ids):
        put_image(watched.inbox / name, i)
    predict, gone = FakeRunnable.predict, threading.Event()

    def meanwhile(self: FakeRunnable, frames: list) -> list:
        if not gone.is_set():
            watched.inbox.rename(tmp_path / "away")
            gone.set()
        return predict(self, frames)

    monkeypatch.setattr(FakeRunnable, "predict", meanwhile)
    watched.start(HERE, "runner.max_failures=0", "decode_threads=1", "queue_mb=1")
    watched.wait_for_health(f"unhealthy: cannot read the watched folder {watched.inbox}")
    wait_for(lambda: watched.status()["state"] == "idle")
    (tmp_path / "away").rename(watched.inbox)
    watched.wait_for_health("ok")
    wait_for(lambda: len(set(watched.assets())) == 40)
    report = watched.stop()
    assert (report.exit_status, report.counts) == (0, {"done": 40, "failed": 0})
    check_each_once(watched, *ids)


def test_a_root_that_goes_in_a_single_pass(watched: Watched) -> None:
    put_image(watched.inbox / "x.png")
    watched.start(HERE, "runner.max_passes=2", "runner.poll_s=1", "runner.events=false")
    watched.wait_for_assets("x.png")
    shutil.rmtree(watched.inbox)
    with pytest.raises(RootGoneError, match="cannot read the watched folder"):
        watched.wait()


@pytest.mark.parametrize("after", ["keep", "move"])
def test_an_output_inside_the_inbox(after: str, watched: Watched) -> None:
    watched.out = watched.inbox / "results" / "today"
    for name in ("x.png", "sub/y.png"):
        put_image(watched.inbox / name)
    watched.start(HERE, "sink=[overlay]", f"runner.after={after}")
    watched.wait_for_assets("sub/y.png", "x.png")
    put_image(watched.inbox / "z.png")
    watched.wait_for_assets("sub/y.png", "x.png", "z.png")
    wait_for(lambda: watched.status()["pending"] == 0)
    assert watched.stop().counts == {"done": 3, "failed": 0}
    check_each_once(watched, "sub/y.png", "x.png", "z.png")


def test_markers_go_along(watched: Watched) -> None:
    marked = ("runner.ready=marker", "runner.marker=.ok", "runner.after=move")
    put_image(watched.inbox / "a" / "x.png")
    broken(watched.inbox / "y.png")
    watched.start(HERE, *marked)
    wait_for(lambda: watched.status()["state"] == "idle")
    for name in ("a/x.png.ok", "y.png.ok"):
        (watched.inbox / name).touch()
    watched.wait_for_assets("a/x.png", "y.png")
    wait_for(lambda: watched.status()["pending"] == 0)
    watched.stop()
    found = {str(path.relative_to(watched.inbox)) for path in watched.inbox.glob("**/*.*")}
    assert found == {"done/a/x.png", "done/a/x.png.ok", "failed/y.png", "failed/y.png.ok"}


def test_files_that_are_renamed_into_place(watched: Watched) -> None:
    watched.start(HERE, "runner.ready=rename", "runner.settle_s=3600")
    for i in range(5):
        put_image(watched.inbox / f".{i}.part.png", i)
        (watched.inbox / f".{i}.part.png").rename(watched.inbox / f"{i}.png")
    watched.wait_for_assets(*(f"{i}.png" for i in range(5)))
    assert watched.stop().exit_status == 0


def aggregated(watched: Watched) -> int:
    import json

    path = watched.out / "coco.json"
    return len(json.loads(path.read_bytes())["images"]) if path.exists() else 0


def test_hanging_up_rotates_the_log_and_brings_all_up_to_date(watched: Watched) -> None:
    watched.start(HERE)
    for n, rotate in enumerate((False, True), 1):
        broken(watched.inbox / f"bad {n}.png")
        put_image(watched.inbox / f"{n}.png", n)
        wait_for(lambda n=n: len(watched.assets("inputs.jsonl")) == 2 * n)
        assert aggregated(watched) == n - 1
        if rotate:
            (watched.out / "run.log").rename(watched.out / "run.log.old")
        watched.hang_up()
        wait_for(lambda n=n: aggregated(watched) == n)
    assert (watched.out / "run.log").exists()
    assert watched.stop().exit_status == 0
    assert "bad 2.png" in (watched.out / "run.log.old").read_text()
    assert "bad 1.png" in (watched.out / "run.log.1").read_text()


def test_aggregates_from_time_to_time(watched: Watched) -> None:
    watched.start(HERE, "runner.finalize_every_s=0.1")
    for n in (1, 2):
        put_image(watched.inbox / f"{n}.png", n)
        wait_for(lambda n=n: aggregated(watched) == n)
    assert watched.stop().exit_status == 0


def test_an_end_that_would_take_too_long_leaves_the_aggregates(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.watch.schedule._FINALIZE_BYTES_PER_S", 1e-3)
    put_image(watched.inbox / "x.png")
    watched.start(HERE)
    watched.wait_for_assets("x.png")
    assert watched.stop().exit_status == 0
    assert aggregated(watched) == 0
    monkeypatch.undo()
    watched.start(HERE, "runner.max_passes=1")
    assert watched.wait().counts == {"done": 0, "failed": 0}
    assert aggregated(watched) == 1


def test_nothing_to_do(watched: Watched) -> None:
    watched.start(HERE, "runner.max_passes=1")
    assert watched.wait().exit_status == 0
    assert (watched.lines(), aggregated(watched)) == ([], 0)
    assert (watched.out / "coco.json").exists()
