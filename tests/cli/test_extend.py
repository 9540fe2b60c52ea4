"""A user's own stage and sink from a package and a conf directory of their own."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import ROOT, Run, environment

PACKAGE = ROOT / "examples" / "user_package"
OWN = ("--config-dir", str(PACKAGE / "conf"), "stage=[min_score,not_at_edge]", "sink=[counts]")
TRUST = "trusted_packages=[pipeline,runners,plant]"


def test_a_stage_of_ones_own(d2run: Run, photos: Path, tmp_path: Path) -> None:
    env = environment(tmp_path) | {"PYTHONPATH": str(PACKAGE)}
    done = d2run(
        "model=mask_rcnn", "runnable=fake", *OWN, TRUST, f"input={photos}", "output=run", env=env
    )
    assert done.returncode == 3, done.stderr
    assert len((tmp_path / "cwd/run/counts.csv").read_text().splitlines()) > 1
    for line in (tmp_path / "cwd/run/predictions.jsonl").read_text().splitlines():
        frame = json.loads(line)
        for instance in frame["instances"]:
            x1, y1, x2, y2 = instance["box"]
            assert min(x1, y1, frame["width"] - x2, frame["height"] - y2) > 0


def test_an_untrusted_package_is_refused(d2run: Run, photos: Path, tmp_path: Path) -> None:
    env = environment(tmp_path) | {"PYTHONPATH": str(PACKAGE)}
    done = d2run("model=mask_rcnn", "runnable=fake", *OWN, f"input={photos}", env=env)
    assert done.returncode == 2
    assert f"to trust it add '{TRUST}'" in done.stderr


def test_a_preset_of_ones_own(d2run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "nightly.yaml").write_text(
        "defaults:\n  - config\n  - override model: retinanet\n  - override stage: [top_k]\n"
        f"  - _self_\ninput: {photos}\noutput: night\n"
    )
    preset = ("--config-dir", str(tmp_path / "my"), "--config-name", "nightly")
    done = d2run(*preset, "runnable=fake", "quiet=true", "stage.top_k.k=1")
    assert done.returncode == 3, done.stderr
    record = json.loads((tmp_path / "cwd/night/run.json").read_text())
    assert record["config"]["model"]["name"] == "retinanet"
    assert record["detections"]
    assert sum(record["detections"].values()) == record["counts"]["done"]


def test_a_failing_job_does_not_stop_a_sweep(d2run: Run, photos: Path, tmp_path: Path) -> None:
    done = d2run(
        "-m", "model=mask_rcnn,retinanet", "runnable=fake", "quiet=true", "output=sweep",
        f"input={photos}/b.png,{photos}/gone,{photos}",
    )  # fmt: skip
    assert done.returncode == 3
    finished = sorted(path.parent.name for path in (tmp_path / "cwd/sweep").glob("*/run.json"))
    assert finished == ["0", "2", "3", "5"]
    assert done.stderr.count("no file or directory") == 2
