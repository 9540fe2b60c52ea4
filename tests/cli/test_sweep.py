"""A sweep on the command line ends with its tables, ``sweep.csv`` and ``sweep.html``."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from command_line import Run, command, environment
from evaluated import make


def page_of(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    text = (directory / "sweep.html").read_text(encoding="utf-8")
    found = [re.search(rf'id="{name}">(.*?)</script>', text) for name in ("facts", "data")]
    facts, data = (json.loads(each[1]) for each in found if each)
    return facts, data


def table_of(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "sweep.csv").read_text().splitlines()))


def test_two_models_and_three_thresholds(d2run: Run, photos: Path, tmp_path: Path) -> None:
    done = d2run(
        "-m", "model=mask_rcnn,shapes", "stage.min_score.threshold=0.3,0.6,0.7", "runnable=fake",
        f"input={photos}", "output=sweep",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr  # one image is broken
    end = done.stdout[done.stdout.index("Sweep") :].splitlines()
    assert re.split(r"\s*┃\s*", end[2].strip("┃ ")) == [
        "job", "model", "threshold", "status", "images", "detections", "seconds",
    ]  # fmt: skip
    assert max(map(len, end[:-2])) <= 80  # the last ones are paths
    rows = table_of(tmp_path / "cwd/sweep")
    assert [row["overrides"].split(" ")[0] for row in rows] == ["model=mask_rcnn"] * 3 + [
        "model=shapes"
    ] * 3
    classes = [sum(int(row[key] or 0) for key in row if key.startswith("detections."))
               for row in rows]  # fmt: skip
    assert classes == [int(row["detections"]) for row in rows]
    facts, data = page_of(tmp_path / "cwd/sweep")
    assert [job["values"] for job in facts["jobs"]] == [
        [model, score] for model in ("mask_rcnn", "shapes") for score in ("0.3", "0.6", "0.7")
    ]
    assert [job["report"] for job in facts["jobs"]] == [f"{i}/report.html" for i in range(6)]
    assert len(data["images"]) == int(rows[0]["images"])
    for image in data["images"]:  # once, with the results of all jobs
        assert image["src"].startswith("data:image/jpeg;base64,")
        assert [job for job, *_ in image["results"]] == list(range(6))
        counts = [len(detections) for _, _, detections, _ in image["results"]]
        assert counts[0] >= counts[1] >= counts[2]
        assert (tmp_path / "cwd/sweep" / image["results"][4][1]).is_file()  # the drawn image


def test_evaluation_gives_the_metric_and_failures_appear(d2run: Run, tmp_path: Path) -> None:
    truth, run = make(tmp_path, n_images=12)
    done = d2run(
        "-m", "runner=evaluate", f"runner.run={run},{tmp_path}/gone",
        f"runner.ground_truth={truth}", "runner.metric=f1.unfiltered,nonsense", "output=sweep",
    )  # fmt: skip
    assert done.returncode == 2
    found = json.loads((run / "evaluation.json").read_text())
    f1 = found["f1"]["one"]["unfiltered"]["f1"]
    assert f"best f1.unfiltered: {f1:.4f} in job 0, " in done.stdout
    rows = table_of(tmp_path / "cwd/sweep")
    assert [row["status"] for row in rows] == ["0", "2", "2", "2"]
    assert [row["metric"] for row in rows] == [str(f1), "", "", ""]
    assert rows[0]["directory"] == str(run)
    assert "metric: expected one of" in rows[1]["message"]
    facts, _ = page_of(tmp_path / "cwd/sweep")
    assert (facts["best"], facts["metric"]) == (0, "f1.unfiltered")
    assert "no directory" in facts["jobs"][2]["message"]


def test_a_terminated_sweep_has_its_page(photos: Path, tmp_path: Path) -> None:
    for i in range(1000):  # it has no end before the signal
        (photos / f"more_{i}.jpg").hardlink_to(photos / "a1.jpg")
    arguments = command(
        "-m", "model=mask_rcnn,shapes", "runnable=fake", f"input={photos}",
        f"output={tmp_path}/sweep", "quiet=true",
    )  # fmt: skip
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment(tmp_path))
    while not (tmp_path / "sweep/0/run.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait() == 143
    facts, data = page_of(tmp_path / "sweep")
    assert [(job["status"], job["images"]) for job in facts["jobs"]] == [(143, None)]
    assert data["images"] == []
