"""Files that kill, hang or bloat their decoder cost only three tries."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, environment, write_picture
from forking import Forks
from processes import children, wait_for

from runners.rundir.in_flight import InFlight

SAME = ("predictions.jsonl", "coco.json", "coco_results.json", "failures.jsonl", "inputs.jsonl")
Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(12):
        write_picture(tmp_path / f"in/{i}.png", np.full((24, 32, 3), i * 20, np.uint8))
    return tmp_path / "in"


@pytest.fixture
def crashing(tmp_path: Path, photos: Path) -> tuple[list[str], dict[str, str]]:
    """Command and environment of d2run with decoders that ``fault:`` files crash."""
    support = ROOT / "tests" / "support"
    script = [str(support / "crashing.py"), "model=mask_rcnn", "runnable=fake", "quiet=true"]
    path = os.pathsep.join([str(ROOT), str(support)])
    return [*script, f"input={photos}"], {**environment(tmp_path), "PYTHONPATH": path}


@pytest.fixture
def start(tmp_path: Path, crashing: tuple[list[str], dict[str, str]]) -> Start:
    """Start that command."""
    script, env = crashing

    def started(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, *script, f"output={tmp_path}/out", *options]
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    return started


@pytest.fixture
def run(tmp_path: Path, crashing: tuple[list[str], dict[str, str]], forks: Forks) -> Run:
    """Run that command to its end; return its status and what it says."""
    script, env = crashing

    def run(*options: str, output: str = "out") -> tuple[int, list[str]]:
        command = [*script, f"output={tmp_path / output}", *options]
        done = forks.run(command, cwd=tmp_path, env=env, timeout=90)
        return done.returncode, done.stderr.splitlines()

    return run


def ended(child: subprocess.Popen[str]) -> tuple[int, list[str]]:
    text = child.communicate(timeout=90)[1]
    return child.returncode, text.splitlines()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def counts(out: Path) -> dict[str, int]:
    return json.loads((out / "run.json").read_text())["counts"]


def outputs(out: Path) -> dict[str, bytes]:
    pictures = sorted(out.glob("overlay/**/*.jpg"))
    files = {str(path.relative_to(out)): path.read_bytes() for path in pictures}
    return files | {name: (out / name).read_bytes() for name in SAME}


def failures(out: Path) -> list[tuple[str, str, int]]:
    keys = ("asset", "error", "attempts")
    return [tuple(line[key] for key in keys) for line in lines(out / "failures.jsonl")]


@pytest.mark.timeout(200)
def test_it_is_quarantined_and_all_others_are_done(run: Run, photos: Path, tmp_path: Path) -> None:
    faults = {"3": "segfault", "5": "exit", "7": "wait", "9": "hog"}
    for name, fault in faults.items():
        (photos / f"{name}b.png").write_text(f"fault:{fault}")
    apart = ("decode.isolation=process", "decode.timeout_s=1", "decode.memory_mb=256")
    out = tmp_path / "out"
    status, told = run(*apart)
    assert status == 3
    assert len(told) == 5
    assert counts(out) == {"done": 12, "failed": 4}
    poison = [(f"{name}b.png", "PoisonError", 3) for name in faults]
    assert failures(out) == poison
    first = outputs(out)

    status, told = run(*apart)  # not tried again
    assert (status, len(told)) == (3, 1)
    assert "4 of them killed their worker process before" in told[0]
    assert counts(out) == {"done": 0, "failed": 0, "earlier": 12, "not_retried": 4}
    assert outputs(out) == first

    status, told = run(*apart, "runner.retry_failed=true")
    assert (status, len(told)) == (3, 5)
    assert counts(out) == {"done": 0, "failed": 4, "earlier": 12}
    assert failures(out) == poison

    for name in faults:  # of other content they are inputs like any other
        shutil.copy(photos / f"{name}.png", photos / f"{name}b.png")
    assert run(*apart) == (0, [])
    assert counts(out) == {"done": 4, "failed": 0, "earlier": 12}
    assert failures(out) == []


def test_killed_in_between(start: Start, run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "5b.png").write_text("fault:wait")
    apart = ("decode.isolation=process", "decode.timeout_s=1")
    assert run(*apart, output="whole")[0] == 3
    child = start(apart[0], "decode.timeout_s=30")
    wait_for(lambda: (tmp_path / "out/.in_flight").exists() and children(child.pid))
    wait_for(lambda: b"5b.png" in (tmp_path / "out/.in_flight").read_bytes())
    workers = children(child.pid)
    child.kill()
    assert ended(child)[0] == -signal.SIGKILL
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert run(*apart)[0] == 3
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


@pytest.mark.timeout(200)
def test_what_ends_the_run_is_found_by_the_next(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "5b.png").write_text("fault:segfault")
    out = tmp_path / "out"
    assert run()[0] == -signal.SIGSEGV
    assert '"5b.png"\n' in (out / ".in_flight").read_text()
    # decode.isolation=none never starts another process
    assert run("decode.isolation=none")[0] == -signal.SIGSEGV
    status, _ = run()
    assert status == 3
    assert failures(out) == [("5b.png", "PoisonError", 3)]
    assert len(lines(out / "predictions.jsonl")) == 12
    assert not (out / ".in_flight").exists()

    status, told = run()
    assert (status, len(told)) == (3, 1)
    assert counts(out) == {"done": 0, "failed": 0, "earlier": 12, "not_retried": 1}
    assert run("decode.isolation=process", output="apart")[0] == 3
    assert outputs(out) == outputs(tmp_path / "apart")


@pytest.mark.timeout(200)
def test_each_of_several_costs_one_run_at_most(run: Run, photos: Path, tmp_path: Path) -> None:
    for i in (0, 4, 11):
        (photos / f"{i}b.png").write_text("fault:segfault")
    deaths = 0
    while (status := run("decode_threads=1")[0]) == -signal.SIGSEGV:
        deaths += 1
    assert status == 3
    assert 1 <= deaths <= 3
    assert failures(tmp_path / "out") == [(f"{i}b.png", "PoisonError", 3) for i in (0, 4, 11)]
    assert len(lines(tmp_path / "out/predictions.jsonl")) == 12


def test_innocent_neighbours_are_only_suspects(
    start: Start, run: Run, photos: Path, tmp_path: Path
) -> None:
    """Killed with -9, again and again, while everything waits behind a file that hangs."""
    assert run(output="whole")[0] == 0
    (photos / "6b.png").write_text("fault:wait")
    out = tmp_path / "out"
    for _ in range(2):
        child = start("decode.timeout_s=60")
        wait_for(lambda: (out / ".in_flight").exists())
        wait_for(lambda: '"6b.png"' in (out / ".in_flight").read_text())
        time.sleep(0.2)
        child.kill()
        assert ended(child)[0] == -signal.SIGKILL
    (photos / "6b.png").unlink()
    assert run() == (0, [])
    assert outputs(out) == outputs(tmp_path / "whole")


def test_an_interrupted_run_leaves_its_suspects_and_no_others(tmp_path: Path) -> None:
    with InFlight(tmp_path) as first:  # dies
        first.add("a\n\udcff.png")
        first.add("b.png")
        first.discard(["b.png"])
        first.add("c.png")
        note = (tmp_path / ".in_flight").read_bytes()
    assert not (tmp_path / ".in_flight").exists()

    (tmp_path / ".in_flight").write_bytes(note + b'"cut o')
    second = InFlight(tmp_path).__enter__()
    assert second.suspects == {"a\n\udcff.png", "c.png"}
    second.add("c.png")
    second.add("d.png")
    second.discard(["c.png"])
    second.__exit__(KeyboardInterrupt)
    with InFlight(tmp_path) as third:
        assert third.suspects == {"a\n\udcff.png"}


def test_a_full_disk_does_not_end_the_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with InFlight(tmp_path) as note:
        monkeypatch.setattr(os, "write", full)
        note.add("a.png")
        note.discard(["a.png"])
        monkeypatch.undo()
        note.add("b.png")
        assert (tmp_path / ".in_flight").read_text() == '"b.png"\n'
