"""The table of a sweep, and how an interrupted run is resumed."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_run import write_run

from pipeline.testing import make_result
from runners.reporting.resuming import describe_kept, resume_command
from runners.reporting.sweep import (
    SweepJob,
    best_job,
    differing_keys,
    print_sweep,
    varied,
    write_sweep,
)


def job(directory: Path, number: int, *overrides: str, status: int = 0, **record: Any) -> SweepJob:
    output = directory / str(number)
    if record:
        output.mkdir()
        (output / "run.json").write_text(json.dumps({"state": "ended", **record}))
    metric = record.get("metric")
    if metric is not None:
        (output / "evaluation.json").write_text(json.dumps({"metric": {"name": "mask.AP"}}))
    return SweepJob.of(number, overrides, status, 1.234, output, metric, "no such stage")


@pytest.fixture
def jobs(tmp_path: Path) -> list[SweepJob]:
    found = {"totals": {"done": 8, "failed": 2}, "detections": {"a": 5, "b": 2}}
    better = {"totals": {"done": 8}, "detections": {"b": 3, "c": 9}}
    killed = {**found, "state": "running"}
    return [
        job(tmp_path, 0, "x.seed=1", "y=p", metric=0.25, **found),
        job(tmp_path, 1, "x.seed=2", "y=p", metric=0.5, **better),
        job(tmp_path, 2, "x.seed=3", "y=p", status=2),
        job(tmp_path, 3, "x.seed=4", "y=p", status=143, **killed),
        SweepJob.of(4, ("x.seed=5", "y=p"), None, None, tmp_path / "4", message="job 2 failed"),
    ]


def cells_of(text: str) -> list[list[str]]:
    rows = [line[1:-1].split("│") for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row] for row in rows]


def test_tables(tmp_path: Path, jobs: list[SweepJob], capfd: pytest.CaptureFixture[str]) -> None:
    print_sweep(tmp_path, jobs)
    out = capfd.readouterr().out
    assert cells_of(out) == [
        ["0", "1", "0", "8", "7", "0.2500", "1.23"],
        ["1", "2", "0", "8", "12", "0.5000", "1.23"],
        ["2", "3", "2", "", "", "", "1.23"],
        ["3", "4", "143", "", "", "", "1.23"],
        ["4", "5", "not started", "", "", "", ""],
        ["0", "0", "5", "2"],
        ["1", "9", "0", "3"],
    ]
    heads = [line.strip("┃ ").split("┃") for line in out.splitlines() if line.startswith("┃")]
    assert [[cell.strip() for cell in head] for head in heads] == [
        ["job", "seed", "status", "images", "detections", "mask.AP", "seconds"],
        ["job", "c", "a", "b"],
    ]
    assert out.splitlines()[-2:] == [
        "best mask.AP: 0.5000 in job 1, seed=2",
        f"results of the sweep in {tmp_path}",
    ]


def test_csv(tmp_path: Path, jobs: list[SweepJob]) -> None:
    write_sweep(tmp_path, jobs)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert rows[0] == {
        "job": "0", "overrides": "x.seed=1 y=p", "status": "0", "images": "8", "detections": "7",
        "metric": "0.25", "seconds": "1.23", "directory": f"{tmp_path}/0",
        "message": "no such stage", "detections.c": "0", "detections.a": "5", "detections.b": "2",
    }  # fmt: skip
    assert (rows[2]["images"], rows[2]["detections.a"], rows[3]["images"]) == ("", "", "")
    last = [rows[4][key] for key in ("status", "images", "seconds", "message")]
    assert last == ["not started", "", "", "job 2 failed"]


def test_long_overrides_fit_80_columns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    long = "model.weights=/" + "very/" * 30 + "long.pth"
    names = {f"class number {i}": 100_000 + i for i in range(40)}
    jobs = [
        job(tmp_path, i, f"{long}{i}", f"stage.min_score.threshold=0.{i}", totals={"done": 10**6},
            detections=names, metric=0.5)
        for i in range(3)
    ]  # fmt: skip
    print_sweep(tmp_path, jobs)
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines[:-2])) <= 80
    text = "".join(row[1] for row in cells_of("\n".join(lines)))
    assert all(f"long.pth{i}" in text for i in range(3))  # folded
    rows = [row for row in cells_of("\n".join(lines)) if row[0] == "2"]
    assert rows[0][2] == "0.2"
    assert rows[1][1:5] == ["0", "1000000", str(sum(names.values())), "0.5000"]
    assert sum(map(int, rows[2][1:])) == sum(names.values())  # the last column: others


def test_results_of_an_earlier_sweep_count(tmp_path: Path) -> None:
    write_run(tmp_path / "0", [make_result(n=3, class_names=("a",))])
    written = json.loads((tmp_path / "0/run.json").read_text())
    again = job(tmp_path / "other", 0)
    assert again.detections is None
    record = {**written, "counts": {"done": 0, "earlier": 1}, "totals": {"done": 1}}
    (tmp_path / "0/run.json").write_text(json.dumps(record))
    resumed = SweepJob.of(0, (), 0, 1, tmp_path / "0")
    assert (resumed.images, resumed.classes) == (1, {"a": 3})
    (tmp_path / "0/predictions.jsonl").write_text("{half")
    damaged = SweepJob.of(0, (), 0, 1, tmp_path / "0")
    assert damaged.classes is None
    assert "predictions.jsonl" in damaged.message


def test_other_metrics_are_not_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [job(tmp_path, i, f"x={i}", metric=0.5, totals={}) for i in range(2)]
    assert best_job(jobs) == jobs[0]
    jobs[1] = replace(jobs[1], metric_name="f1")
    print_sweep(tmp_path, jobs)
    out = capfd.readouterr().out
    assert "┃ metric ┃" in out
    assert "best" not in out


def test_differing_keys(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, i, f"stage.a.threshold={i}", f"+stage.b.threshold={2 * i}", "model=m")
        for i in range(2)
    ]
    expected = {"stage.a.threshold": "a.threshold", "stage.b.threshold": "b.threshold"}
    assert differing_keys(jobs) == expected
    assert list(differing_keys(jobs[:1])) == [*expected, "model"]


def test_overrides_that_vary() -> None:
    overrides = ["model=shapes", "seed=1", "model.metadata.api_token=hush"]
    assert varied(overrides, {"seed"}) == ("seed=1",)
    assert "hush" not in "".join(varied(overrides, ()))


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
