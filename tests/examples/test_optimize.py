"""examples/optimize: the grid of its README, and the search with optuna."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "examples/optimize/README.md").read_text("utf-8")


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the run and the ground truth of the README, without a real model.

    What the run found with a score of 0.7 or more is right.
    """
    place = tmp_path_factory.mktemp("optimize")
    (place / "scenes").symlink_to(ROOT / "examples/shapes/scenes")
    options = ["model=shapes", "runnable=fake", "runnable.n_instances=8", "input=scenes"]
    done = call(str(ROOT / "run.py"), *options, "stage=[]", "sink=[coco]", "output=runs/base",
                "quiet=true", cwd=place)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((place / "runs/base/coco.json").read_text())
    found["annotations"] = [each for each in found["annotations"] if each["score"] >= 0.7]
    (place / "runs/scenes").mkdir()
    (place / "runs/scenes/annotations.json").write_text(json.dumps(found))
    return place


def rows_of(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "sweep.csv").read_text().splitlines()))


def readme_command(start: str) -> list[str]:
    found = re.search(rf"^python ({re.escape(start)}.*)$", README, re.MULTILINE)
    assert found
    return shlex.split(found[1])


def test_the_grid(place: Path) -> None:
    script, *arguments = readme_command("run.py -m")
    done = call(str(ROOT / script), *arguments, cwd=place)
    assert done.returncode == 0, done.stderr
    rows = rows_of(place / "runs/grid")
    assert len(rows) == 6
    metrics = [float(row["metric"]) for row in rows]
    assert f"best f1.unfiltered: {max(metrics):.4f} in job " in done.stdout
    assert metrics[4] == 1 > metrics[2]  # 0.7, without class-agnostic NMS
    assert (place / "runs/grid/sweep.html").is_file()


def search(place: Path, trials: int, output: str) -> list[dict[str, str]]:
    script, *arguments = readme_command("examples/optimize/optimize.py")
    options = ["--trials", str(trials), "--output", output]
    done = call(str(ROOT / script), *arguments, *options, cwd=place)
    assert done.returncode == 0, done.stderr
    return rows_of(place / output)


def test_the_search(place: Path) -> None:
    first, second = search(place, 2, "search")
    assert first["overrides"] != second["overrides"]
    assert [0 < float(row["metric"]) <= 1 for row in (first, second)] == [True, True]
    assert (place / "search/sweep.html").is_file()


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_equal_seeds_give_equal_trials(place: Path) -> None:
    long, again = search(place, 20, "long"), search(place, 12, "again")
    same = ("overrides", "status", "images", "detections", "metric")
    assert [[row[key] for key in same] for row in long[:12]] == [
        [row[key] for key in same] for row in again
    ]
    metrics = [float(row["metric"]) for row in long]
    assert max(metrics[10:]) > max(metrics[:10])  # after ten random trials, it learns


def test_a_missing_run_is_one_line(place: Path) -> None:
    script = str(ROOT / "examples/optimize/optimize.py")
    done = call(script, "--run", "gone", "--ground-truth", "x.json", cwd=place)
    assert done.returncode == 1
    assert done.stderr == (f"error: no run in '{place}/gone': cannot read run.json: no such file\n")
