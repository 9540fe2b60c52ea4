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


def test_the_search(place: Path) -> None:
    script, *arguments = readme_command("examples/optimize/optimize.py")
    for trials, output in (("2", "a"), ("1", "b")):
        options = ["--trials", trials, "--output", output]
        done = call(str(ROOT / script), *arguments, *options, cwd=place)
        assert done.returncode == 0, done.stderr
    first, again = rows_of(place / "a"), rows_of(place / "b")
    same = ("overrides", "status", "images", "detections", "metric")
    assert [first[0][key] for key in same] == [again[0][key] for key in same]
    assert first[1]["overrides"] != first[0]["overrides"]
    assert 0 < max(float(row["metric"]) for row in first) <= 1
    assert (place / "a/sweep.html").is_file()


def test_a_missing_run_is_one_line(place: Path) -> None:
    script = str(ROOT / "examples/optimize/optimize.py")
    done = call(script, "--run", "gone", "--ground-truth", "x.json", cwd=place)
    assert done.returncode == 1
    assert done.stderr == (f"error: no run in '{place}/gone': cannot read run.json: no such file\n")
