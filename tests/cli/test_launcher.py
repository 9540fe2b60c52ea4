"""A sweep with hydra/launcher=gpu: the same table, sweep.csv and exit status as one by one."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import Run, command, environment, write_picture
from hydra.errors import MissingConfigException
from nvidia_smi import rows, write_nvidia_smi
from omegaconf import OmegaConf
from processes import children, state, wait_for

from pipeline.config.explain import explain
from pipeline.sinks.report.html import read_page
from runners.jobs import Jobs
from runners.reporting.sweep import SweepJob

EXPECTED = "batch_size: expected auto or a whole number of at least 1, got 'abc'"
LAUNCHER = ("hydra/launcher=gpu", "hydra.launcher.slots=2")


def read(sweep: Path) -> list[dict[str, str]]:
    """Return the rows of a sweep.csv, without what differs between two sweeps."""
    text = (sweep / "sweep.csv").read_text().replace(f"{sweep}/", "")
    return [{**row, "seconds": ""} for row in csv.DictReader(text.splitlines())]


def cells(out: str) -> list[list[str]]:
    """Return the job, status, images and detections of each row of the sweep's table."""
    head, *lines = out[out.index("Sweep\n") :].split("└")[0].splitlines()[2:]
    names = [cell.strip() for cell in head.strip("┃").split("┃")]
    kept = [names.index(name) for name in ("job", "status", "images", "detections")]
    split = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines[1:]]
    return [[row[i] for i in kept] for row in split]


def test_the_same_table_and_status(d2run: Run, photos: Path, tmp_path: Path) -> None:
    options = (
        "-m", "model=mask_rcnn,retinanet", "batch_size=1,abc", "runnable=fake", f"input={photos}",
    )  # fmt: skip
    one, launched = tmp_path / "one", tmp_path / "launched"
    first = d2run(*options, f"output={one}")
    folder = write_nvidia_smi(tmp_path / "bin", rows(2))
    variables = environment(tmp_path)
    variables["PATH"] = f"{folder}:{variables['PATH']}"
    second = d2run(*options, f"output={launched}", "hydra/launcher=gpu", env=variables)
    assert (first.returncode, second.returncode) == (3, 3)
    assert [row["status"] for row in read(one)] == ["3", "2", "3", "2"]
    assert read(launched) == read(one)
    assert cells(second.stdout) == cells(first.stdout)
    assert second.stdout.splitlines()[-2] == f"results of the sweep in {launched}"
    pages = [read_page(sweep / "sweep.html") for sweep in (one, launched)]
    assert pages[0][0] == pages[1][0]  # the images and results
    assert [job["message"] for job in pages[1][1]["jobs"]][1] == EXPECTED
    for job in ("0", "2"):
        written = (launched / job / "predictions.jsonl").read_bytes()
        assert written == (one / job / "predictions.jsonl").read_bytes()
    # each line says of which job it is; the start of a job says on which device
    said = second.stderr.splitlines()
    assert {line[:4] for line in said} == {"[0] ", "[1] ", "[2] ", "[3] "}
    assert f"[1] error: job 1: {EXPECTED}" in said
    starts = [line for line in said if line.startswith("[0] job 0 on GPU ")]
    assert len(starts) == 1
    assert starts[0].endswith(": model=mask_rcnn batch_size=1")


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_sweep_is_interrupted_and_resumed(photos: Path, tmp_path: Path) -> None:
    for i in range(100):
        write_picture(photos / f"more{i}.png", np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "conf/stage").mkdir(parents=True)
    (tmp_path / "conf/stage/slow.yaml").write_text("slow: {_target_: slow.Slow}\n")
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "class Slow:\n"
        "    def __call__(self, result):\n"
        "        time.sleep(0.1)\n"
        "        return result\n"
    )
    trusted = "trusted_packages=[pipeline,runners,slow]"
    options = ("-m", "model=mask_rcnn,retinanet", "runnable=fake", "sink=[]", trusted,
               "--config-dir", "conf", "stage=[slow]", f"input={photos}")  # fmt: skip
    journals = [tmp_path / "sweep" / job / "predictions.jsonl" for job in ("0", "1")]

    def start(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(*options, *more),
            cwd=tmp_path,
            env=environment(tmp_path) | {"PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    # Ctrl-C
    process = start("output=sweep", *LAUNCHER)
    wait_for(lambda: all(path.exists() and path.stat().st_size for path in journals))
    jobs = children(process.pid)
    assert len(jobs) == 2
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert {state(pid)[0] for pid in jobs} == {"X"}
    assert (process.returncode, [row[1] for row in cells(out)]) == (130, ["130", "130"])
    last, resume = err.splitlines()[-2:]
    assert last.startswith("error: interrupted; ")
    assert last.count("kept in sweep/") == 2
    assert resume.startswith("resume with: ")

    # a job is killed, the other one continues
    process = start("output=sweep", *LAUNCHER)
    sizes = [path.stat().st_size for path in journals]
    wait_for(lambda: all(p.stat().st_size > n for p, n in zip(journals, sizes, strict=True)))
    os.kill(min(children(process.pid)), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 137
    assert [row[1] for row in cells(out)] == ["137", "3"]  # one image is broken
    assert "error: job 0: its process was killed by SIGKILL" in err

    # the same command again does what is missing
    process = start("output=sweep", *LAUNCHER)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert [row["status"] for row in read(tmp_path / "sweep")] == ["3", "3"]
    assert [int(row["images"]) > 0 for row in read(tmp_path / "sweep")] == [True, True]
    start("output=one").communicate(timeout=120)
    for path in journals:
        assert path.read_bytes() == (tmp_path / "one" / path.parent.name / path.name).read_bytes()


def launched(number: int, status: str, **given: object) -> SimpleNamespace:
    """Return a job as the launcher hands it over."""
    return SimpleNamespace(
        number=number, status=status, overrides=("seed=1", f"model={number}"), value=None,
        seconds=2.5, exit_status=given.get("exit_status"), reason=given.get("reason", ""),
        directory=Path("/none/sweep") / str(number), sweep_directory=Path("/none/sweep"),
        config=OmegaConf.create({"quiet": False}),
    )  # fmt: skip


def test_jobs_that_were_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "orig_argv", ["run.py", "-m"])
    jobs = Jobs(None)
    for number in range(2):
        job = launched(number, "stopped", exit_status=130, reason="interrupted")
        job.sweep_directory = tmp_path / "sweep"
        job.directory = job.sweep_directory / str(number)
        job.directory.mkdir(parents=True)
        (job.directory / "run.json").write_text(f'{{"totals": {{"done": {number + 1}}}}}')
        jobs.job_ended(job)
    jobs.say_interrupted("interrupted")
    assert jobs.statuses == [130, 130]
    assert capfd.readouterr().err.splitlines() == [
        "error: interrupted; 1 result is kept in sweep/0; 2 results are kept in sweep/1",
        "resume with: run.py -m output=sweep",
    ]


def test_jobs_that_died(capfd: pytest.CaptureFixture[str]) -> None:
    jobs = Jobs(None)
    jobs.swept = frozenset({"model"})
    reason = "its process was killed by SIGKILL"
    assert jobs.job_ended(launched(2, "failed", exit_status=137, reason=reason)) is None
    assert jobs.job_ended(launched(1, "failed", exit_status=0, reason="without a result")) is None
    for number in (4, 3):
        jobs.job_ended(launched(number, "not started", reason="job 2 failed"))
    late = launched(0, "failed", exit_status=139, reason="the job returned, but then died")
    late.value = SweepJob(0, ("model=0",), 0, 1.5, Path("/none/sweep/0"), 8, {"a": 20}, 0.5)
    assert jobs.job_ended(late) == 0.5
    assert jobs.statuses == [137, 1, 139]
    jobs.report_sweep()
    shown = capfd.readouterr()
    assert shown.err.splitlines() == [
        f"error: job 2: {reason}",
        "error: job 1: without a result",
        "error: job 0: the job returned, but then died",
        "error: 2 jobs not started: job 2 failed",
    ]
    assert cells(shown.out) == [
        ["0", "139", "8", "20"], ["1", "1", "", ""], ["2", "137", "", ""],
        ["3", "not started", "", ""], ["4", "not started", "", ""],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.launcher.slots=0"],
         "hydra.launcher.slots=0: expected a whole number of at least 1"),
        (["device=cpu,cuda:1"], "job 1: device=cuda:1: a job has one GPU, which is cuda:0 in its "
         "process; remove this, and choose GPUs with hydra.launcher.devices"),
    ],
)  # fmt: skip
def test_mistakes(d2run: Run, photos: Path, arguments: list[str], message: str) -> None:
    done = d2run("-m", "runnable=fake", f"input={photos}", *LAUNCHER, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


@pytest.mark.nightly
def test_standard_input_cannot_be_shared(d2run: Run, tmp_path: Path) -> None:
    done = d2run("-m", "runnable=fake", "input=-", "quiet=true", *LAUNCHER, input="a.png\n")
    assert done.returncode == 2
    assert done.stderr.startswith("[0] error: job 0: input=-: the jobs of hydra/launcher=gpu run")


def test_without_the_package() -> None:
    missing = MissingConfigException("no such file", "hydra/launcher/gpu")
    expected = "hydra/launcher=gpu: not installed; run: pip install ./packaging/hydra-gpu-launcher"
    assert explain(missing) == expected
