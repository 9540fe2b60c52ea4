"""runner=watch as a service and as a cron job: files, signals, messages."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import Run, command, environment
from processes import wait_for

from pipeline.system.files import asset_id_of
from runners.rundir.ledger.ledger import Entry, Ledger

OTHER_LINES = ("loading", "waiting", "error", "warning", "stopped", "resume")
FAKE = ("model=mask_rcnn", "runnable=fake", "sink=[coco]", "runner=watch")
Start = Callable[..., "subprocess.Popen[str]"]


def image_bytes(seed: int = 0) -> bytes:
    image = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def ids(path: Path) -> list[str]:
    return sorted(map(asset_id_of, lines(path)))


def status(out: Path) -> dict[str, Any]:
    path = out / "status.json"
    return json.loads(path.read_bytes()) if path.exists() else {}


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def start(tmp_path: Path, inbox: Path, out: Path) -> Iterator[Start]:
    """Start a watch in the background; what a test leaves is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        given = [*FAKE, "runner.settle_s=0.5", "runner.poll_s=1", f"input={inbox}", f"output={out}"]
        streams = {name: subprocess.PIPE for name in ("stdout", "stderr")}
        process = subprocess.Popen(
            command(*given, *arguments), env=environment(tmp_path), text=True, **streams
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_day_in_the_life_of_a_service(start: Start, inbox: Path, out: Path) -> None:
    (inbox / "there.png").write_bytes(image_bytes())
    (inbox / "sub").mkdir()
    odd = inbox / "sub" / os.fsdecode(b"na\xefve \n%s.png")
    odd.write_bytes(image_bytes(1))
    (inbox / "half.png").write_bytes(image_bytes(2)[:900])
    (inbox / "skip_thumb.png").write_bytes(image_bytes(3))
    (inbox / "sub" / "loop").symlink_to("..")
    (inbox / "lost.png").symlink_to("nowhere.png")
    os.mkfifo(inbox / "pipe.png")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    log, options = out / "run.log", ("runner.ignore=[*_thumb.png]", f"runner.metrics_port={port}")
    process = start(*options)
    wait_for(lambda: status(out).get("counts") == {"done": 2, "failed": 1})
    wait_for(lambda: status(out)["state"] == "idle")
    assert len(ids(out / "inputs.jsonl")) == 3
    assert (out / "health").read_text().startswith("ok\n")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        served = answer.read().decode()
    for text in (served, (out / "metrics.prom").read_text()):
        assert 'd2run_inputs_total{outcome="done"} 2.0' in text
        assert "d2run_healthy 1.0" in text
    assert "skipped: pipe.png: not a regular file" in log.read_text()

    log.rename(out / "run.log.old")
    process.send_signal(signal.SIGHUP)
    wait_for(log.exists)
    wait_for((out / "coco.json").exists)
    (inbox / "late.png").write_bytes(image_bytes(4))
    wait_for(lambda: "late.png" in ids(out / "inputs.jsonl"))
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    done = sorted(["late.png", "sub/" + odd.name, "there.png"])
    assert ids(out / "predictions.jsonl") == done
    assert ids(out / "failures.jsonl") == ["half.png"]
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 3
    check_messages(stderr.splitlines(), inbox, out)
    assert "3 done, 1 failed, " in stdout
    assert "processed images for " in stdout
    record = json.loads((out / "run.json").read_text())
    assert (record["exit_status"], record["counts"]) == (0, {"done": 3, "failed": 1})
    assert status(out)["state"] == "finished"
    assert (out / "health").read_text().startswith("unhealthy: not running (the run ended)\n")


def check_messages(lines: list[str], inbox: Path, out: Path) -> None:
    """One line per file; what is waited for, once; at the end, what is kept and how to resume."""
    files = [line for line in lines if not line.startswith(OTHER_LINES)]
    assert sorted(line.rpartition(": ")[0] for line in files) == sorted(
        ["late.png", "sub/na\\udcefve \\n%s.png", "there.png"]
    )
    waiting = [line for line in lines if line.startswith("waiting")]
    assert waiting.count(f"waiting for files in {inbox}/ (poll every 1 s)") == 1
    assert "waiting for late.png to settle" in waiting
    assert len(set(waiting)) == len(waiting)
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: half.png: decode: ")
    assert f"warning: 1 input failed. See {out}/failures.jsonl" in lines  # the status is 0
    assert f"stopped; 3 results are kept in {out}" in lines
    (command,) = [line for line in lines if line.startswith("resume with: ")]
    assert f" runner=watch runner.settle_s=0.5 runner.poll_s=1 input={inbox}" in command
    assert f" output={out}" in command


def test_interrupted_and_started_again(start: Start, inbox: Path, out: Path) -> None:
    for i in range(3):
        (inbox / f"{i}.png").write_bytes(image_bytes(i))
    process = start("quiet=true", "runner.after=move")
    wait_for(lambda: len(list(inbox.glob("done/*"))) == 3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, "")
    (line,) = stderr.splitlines()
    assert line == f"error: interrupted; 3 results are kept in {out}"
    assert ids(out / "predictions.jsonl") == ["0.png", "1.png", "2.png"]
    process = start("runner.after=move", "runner.max_passes=1")
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert status(out)["counts"] == {"done": 0, "failed": 0}


def test_wrong_starts(d2run: Run, inbox: Path, out: Path, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        result = d2run(*FAKE, *arguments)
        assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
        return result.stderr

    here = (f"input={inbox}", f"output={out}")
    assert "no file or directory" in refused(f"input={tmp_path}/gone", f"output={out}")
    (tmp_path / "x.png").write_bytes(image_bytes())
    assert "watches a folder" in refused(f"input={tmp_path}/x.png", f"output={out}")
    assert "output is the input" in refused(f"input={inbox}", f"output={inbox}")
    assert "is the watched folder itself" in refused(*here, f"runner.done={inbox}")
    assert "runner.ignore: expected a list" in refused(*here, "runner.ignore=*.bak")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(*here, f"runner.metrics_port={port}")
    assert not out.exists()
    assert list(inbox.iterdir()) == []


class Writers:
    """Four writers with different habits: rename, slowly, in bursts, with old times."""

    def __init__(self, inbox: Path, n: int, pause_s: float) -> None:
        self.inbox, self.pause_s, self.written = inbox, pause_s, Counter[str]()
        habits = (self.rename, self.slowly, self.in_bursts, self.with_old_times)
        self.threads = [
            threading.Thread(target=habit, args=(range(k * n // 4, (k + 1) * n // 4),))
            for k, habit in enumerate(habits)
        ]

    def rename(self, numbers: range) -> None:
        for i in numbers:
            (self.inbox / f".{i}.part").write_bytes(image_bytes(i))
            (self.inbox / f".{i}.part").rename(self.inbox / f"{i}.png")
            self.has(f"{i}.png")

    def slowly(self, numbers: range) -> None:
        (self.inbox / "slow").mkdir()
        for i in numbers:
            data = image_bytes(i)
            for at in range(0, len(data), 1024):
                with (self.inbox / "slow" / f"{i}.png").open("ab") as file:
                    file.write(data[at : at + 1024])
                time.sleep(self.pause_s / 2)
            self.has(f"slow/{i}.png")

    def in_bursts(self, numbers: range) -> None:
        (self.inbox / "burst").mkdir()
        for i in numbers:
            (self.inbox / "burst" / f"{i}.png").write_bytes(image_bytes(i))
            self.written[f"burst/{i}.png"] += 1
            if i % 50 == 0:
                time.sleep(50 * self.pause_s)

    def with_old_times(self, numbers: range) -> None:
        outside = self.inbox.with_name("camera")
        outside.mkdir()
        for i in numbers:
            (outside / f"{i}.png").write_bytes(image_bytes(i))
            os.utime(outside / f"{i}.png", (0, 0))
            shutil.copy2(outside / f"{i}.png", self.inbox / f"{i}.png")
            self.has(f"{i}.png")

    def has(self, name: str) -> None:
        self.written[name] += 1
        time.sleep(self.pause_s)


@pytest.mark.parametrize(
    ("n", "kills", "after"),
    [
        (200, 2, "move"),
        pytest.param(2000, 5, "keep", marks=(pytest.mark.nightly, pytest.mark.timeout(900))),
        pytest.param(2000, 5, "move", marks=(pytest.mark.nightly, pytest.mark.timeout(900))),
    ],
)
def test_killed_while_four_writers_write(
    n: int, kills: int, after: str, start: Start, inbox: Path, out: Path
) -> None:
    writers, rng = Writers(inbox, n, pause_s=0.02), random.Random(1)
    job = ("quiet=true", f"runner.after={after}")
    process = start(*job)
    for thread in writers.threads:
        thread.start()
    for _ in range(kills):
        before = len(ids(out / "inputs.jsonl"))
        wait_for(lambda before=before: len(ids(out / "inputs.jsonl")) > before)  # it is processing
        time.sleep(rng.uniform(0, 1))
        process.kill()
        process.wait()
        process = start(*job)
    for thread in writers.threads:
        thread.join()
    wait_for(lambda: set(ids(out / "inputs.jsonl")) == set(writers.written))
    wait_for(lambda: (status(out)["pid"], status(out)["pending"]) == (process.pid, 0))
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert ids(out / "predictions.jsonl") == ids(out / "inputs.jsonl") == sorted(writers.written)
    assert len(json.loads((out / "coco.json").read_text())["images"]) == n
    assert lines(out / "failures.jsonl") == []
    if after == "move":
        moved = {str(path.relative_to(inbox / "done")) for path in inbox.glob("done/**/*.png")}
        assert moved == set(writers.written)
        assert len(list(inbox.glob("**/*.png"))) == n


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("events", ["true", "false"])
def test_a_burst_of_twenty_thousand(events: str, start: Start, inbox: Path, out: Path) -> None:
    process, data = start("quiet=true", f"runner.events={events}"), image_bytes()
    wait_for(lambda: status(out).get("state") == "idle")
    for i in range(20_000):
        (inbox / f".{i}.part").write_bytes(data)
        (inbox / f".{i}.part").rename(inbox / f"{i}.png")
    deadline = time.monotonic() + 600
    while status(out)["counts"]["done"] < 20_000 and time.monotonic() < deadline:
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert ids(out / "predictions.jsonl") == sorted(f"{i}.png" for i in range(20_000))


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_idle_on_what_is_done(start: Start, inbox: Path, out: Path) -> None:
    """Prints the CPU time and memory of a watch of two hundred thousand files that are done."""
    (inbox / "first.png").write_bytes(image_bytes())
    process = start("quiet=true", "runner.max_passes=1")
    process.communicate(timeout=60)
    entries = []
    for i in range(200_000):
        path = inbox / f"{i // 200}" / f"{i}.png"
        if i % 200 == 0:
            path.parent.mkdir()
            path.write_bytes(b"x")
            first, times = path, path.stat()
        else:
            os.link(first, path)
        name = str(path.relative_to(inbox))
        entries.append(Entry(name, i + 1, "done", 1, times.st_mtime_ns, "0" * 64))
    with Ledger(out / "ledger.sqlite") as ledger:
        ledger.put(entries)
        ledger.commit()
    process = start("quiet=true")
    deadline = time.monotonic() + 300
    while (status(out)["pid"], status(out)["state"]) != (process.pid, "idle"):
        assert time.monotonic() < deadline
        time.sleep(0.5)

    def cpu_s() -> float:
        times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, times[11:15])) / os.sysconf("SC_CLK_TCK")

    time.sleep(45)  # each folder is listed twice at the start
    began, before = time.monotonic(), cpu_s()
    time.sleep(60)
    share = (cpu_s() - before) / (time.monotonic() - began)
    memory = Path(f"/proc/{process.pid}/status").read_text().partition("VmRSS:")[2].split()[0]
    sys.stdout.write(f"idle: {100 * share:.2f} % of a core, {int(memory) / 1024:.0f} MiB\n")
    assert status(out)["counts"] == {"done": 0, "failed": 0}
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
