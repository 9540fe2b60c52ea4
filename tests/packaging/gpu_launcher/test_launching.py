"""A plain Hydra application with hydra/launcher=gpu, in processes as a user has them."""

from __future__ import annotations

import json
import logging
import re
import runpy
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from nvidia_smi import rows, write_nvidia_smi
from processes import state, wait_for

APP = Path(__file__).with_name("app.py")
GPUS = {f"GPU-{i:08d}-aa": f"GPU {i}" for i in range(3)}


class App:
    """The application in a directory with three fake GPUs."""

    def __init__(self, root: Path) -> None:
        self.root, self.records = root, root / "records"
        self.records.mkdir()
        folder = write_nvidia_smi(root / "bin", rows(3))
        self.environment = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(root)}

    def command(self, *arguments: str) -> list[str]:
        launcher = ("-m", "hydra/launcher=gpu", "hydra.sweep.dir=sweep")
        return [sys.executable, str(APP), *launcher, *arguments]

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    def started(self) -> list[list[Any]]:
        """Return x, number, slot and process of each job that started."""
        path = self.records / "started.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(out: str) -> list[list[str]]:
    """Return the cells of the table at the end: job, status, seconds, device, overrides, reason."""
    lines = out[out.index("job  status") :].splitlines()
    starts = [match.start() for match in re.finditer("-+", lines[1])]
    parts = [slice(*pair) for pair in pairwise([*starts, None])]
    return [[line[part].strip() for part in parts] for line in lines[2:-1]]


def test_twelve_jobs_on_three_slots(tmp_path: Path) -> None:
    app = App(tmp_path)
    arguments = (
        "x=range(12)", "together=3", "records=records", "hydra.launcher.skip_finished=true",
        "deaths=[3-exit,5-raise,7-kill,8-leave,9-orphan]",
    )  # fmt: skip
    status, out, err = app.run(*arguments)
    assert status == 1
    assert "job 3 failed: its process exited with status 9\n" in err
    # never two jobs on a slot, and three at a time: the first three waited for one another
    assert list(app.records.glob("violation-*")) == []
    started = app.started()
    assert sorted(x for x, *_ in started) == list(range(12))
    assert all(x == number for x, number, *_ in started)
    assert {slot for _, _, slot, _ in started[:3]} == set(GPUS)
    assert len({pid for *_, pid in started}) == 12
    found = table(out)
    reasons = {
        3: "its process exited with status 9",
        5: "ValueError: no such thing",
        7: "its process was killed by SIGKILL",
    }
    devices = {x: GPUS[slot] for x, _, slot, _ in started}
    for x, (job, state_, seconds, device, overrides, reason) in enumerate(found):
        assert (int(job), state_) == (x, "failed" if x in reasons else "done")
        assert float(seconds) > 0
        assert (device, reason) == (devices[x], reasons.get(x, ""))
        assert overrides.startswith(f"x={x} ")
    assert out.splitlines()[-1] == "9 done, 3 failed"
    # output comes line by line, with the number of the job; so do tracebacks
    assert out.count("\n[4] job of x=4\n") == 1
    assert len([line for line in err.splitlines() if line == "[5] ValueError: no such"]) == 1
    assert "logged by x=4" in (tmp_path / "sweep/4/app.log").read_text()

    # what a job has started ends with it
    assert state(int((app.records / "child").read_text()))[0] in "XZ"
    # the same sweep again does only what is missing
    status, out, err = app.run(*arguments, CURED="1")
    assert (status, err) == (0, "")
    assert sorted(x for x, *_ in app.started()[12:]) == [3, 5, 7]
    found = table(out)
    assert [row[1] for row in found] == ["done" if x in reasons else "skipped" for x in range(12)]
    assert out.splitlines()[-1] == "9 skipped, 3 done"
    assert list(app.records.glob("violation-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_leave_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    app = App(tmp_path)
    process = app.start("x=1,2", "deaths=[1-hang]", "hydra.launcher.devices=[1]")
    child = app.records / "child"
    wait_for(lambda: child.exists() and child.read_text())
    pids = [app.started()[0][3], int(child.read_text())]
    assert [state(pid)[0] in "RSD" for pid in pids] == [True, True]
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    wait_for(lambda: {state(pid)[0] for pid in pids} <= {"X", "Z"})
    assert len(app.started()) == 1
    if number == signal.SIGKILL:
        assert process.returncode == -number
        return
    assert process.returncode in (128 + number, -number)
    assert [row[:2] + row[3:4] for row in table(out)] == [
        ["0", "stopped", "GPU 1"], ["1", "not started", ""],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.launcher.retries=-1"],
         "hydra.launcher.retries=-1: expected a whole number of at least 0"),
        (["device=cuda:0,cuda:1"],
         "job 1: device=cuda:1: a job has one GPU, which is cuda:0 in its process; remove this, "
         "and choose GPUs with hydra.launcher.devices"),
        (["+hydra.job.env_set.CUDA_VISIBLE_DEVICES=0"],
         "hydra.job.env_set.CUDA_VISIBLE_DEVICES is set by the launcher; remove it"),
        (["x=1,2", "hydra.sweep.subdir=same", "hydra.launcher.skip_finished=true"],
         "hydra.launcher.skip_finished=true: jobs share the directory {root}/sweep/same, but each "
         "needs its own; change hydra.sweep.subdir"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    app = App(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", app.environment["PATH"])
    monkeypatch.setattr(sys, "argv", app.command(*arguments)[1:])
    # Hydra configures the loggers of this process
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(APP), run_name="__main__")
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert err.strip().splitlines()[0] == message.format(root=tmp_path)
    assert "Traceback" not in err
    assert app.started() == []
