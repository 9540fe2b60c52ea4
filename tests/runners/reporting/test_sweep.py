"""The table of a sweep, and how an interrupted run is resumed."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest

from pipeline.job import Report
from runners.reporting.resuming import describe_kept, resume_command
from runners.reporting.sweep import SweepJob, print_sweep, varied, write_sweep


def job(number: int, directory: Path, report: Report | None) -> SweepJob:
    return SweepJob.of(number, f"seed={number}", 0, report, 1.234, directory / str(number))


def test_table_and_csv(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = Report(3, counts={"done": 8, "failed": 2}, detections={"a": 5, "b": 2})
    jobs = [job(0, tmp_path, report), job(1, tmp_path, None)]
    print_sweep(tmp_path, jobs)
    shown = capfd.readouterr().out.splitlines()
    assert shown[-1] == f"results of the sweep in {tmp_path}"
    cells = [line.strip("│ ").split("│") for line in shown if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in cells] == [
        ["0", "seed=0", "0", "8", "7", "1.23", "0"],
        ["1", "seed=1", "0", "", "", "1.23", "1"],
    ]
    write_sweep(tmp_path, jobs)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert rows[0] == {
        "job": "0", "overrides": "seed=0", "status": "0", "images": "8", "detections": "7",
        "seconds": "1.23", "directory": f"{tmp_path}/0",
    }  # fmt: skip
    assert rows[1]["images"] == ""
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.csv"]


def test_overrides_that_vary() -> None:
    overrides = ["model=shapes", "seed=1", "model.metadata.api_token=hush"]
    assert varied(overrides, {"seed"}) == "seed=1"
    assert "hush" not in varied(overrides, ())


def test_kept_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert describe_kept(out) == ""
    out.mkdir()
    said = {"312": "312 results are kept in out", "1": "1 result is kept in out"}
    for totals, text in (({"done": 312, "failed": 3}, said["312"]), ({"done": 1}, said["1"]),
                         ({}, "0 results are kept in out"), ([], "")):  # fmt: skip
        (out / "run.json").write_text(json.dumps({"totals": totals}))
        assert describe_kept(out) == text
    (out / "run.json").write_text("half a rec")
    assert describe_kept(out) == ""


def test_the_command_that_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["python", "run.py", "input=a b (1)/", "model.weights=https://me:hush@host/w"]
    resumed = resume_command(command, tmp_path / "outputs" / "x y")
    assert shlex.split(resumed)[:3] == command[:3]
    assert shlex.split(resumed)[-1] == "output=outputs/x y"
    assert "hush" not in resumed
    named = [*command[:3], "output=runs/night"]
    assert resume_command(named, tmp_path / "runs" / "night") == shlex.join(named)
    assert resume_command(["d2run"], Path("/srv/out")) == "d2run output=/srv/out"
