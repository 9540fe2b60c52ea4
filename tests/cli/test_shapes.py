"""The bundled model through the commands of the README: true detections, and sweeps of them."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import ROOT, Run, environment
from forking import Forks

pytestmark = pytest.mark.detectron2

SCENES = ROOT / "examples" / "shapes" / "scenes"
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    home = environment(tmp_path_factory.mktemp("forks"))
    forks = Forks(home, "torchvision", "detectron2.modeling", "detectron2.engine")
    yield forks
    forks.close()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def readme_command(start: str) -> list[str]:
    found = re.search(rf"^(?:uv run|python) run.py ({start}.*?)(?:\s+#.*)?$", README, re.MULTILINE)
    assert found, f"the README has no command that begins with {start}"
    return shlex.split(found[1])


def test_the_readmes_first_command(d2run: Run, tmp_path: Path) -> None:
    done = d2run(*readme_command("model=shapes input"), f"hydra.run.dir={tmp_path}/out", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for word in ("circle", "square", "triangle", "8 done, ", " images/s, model ", "Detectron2 "):
        assert word in done.stdout
    scenes = sorted(path.relative_to(SCENES).as_posix() for path in SCENES.rglob("*.jpg"))
    assert sorted(line["asset"] for line in lines(tmp_path / "out/predictions.jsonl")) == scenes
    assert len(scenes) == 8
    for scene in scenes:
        assert (tmp_path / "out/overlay" / f"{scene}.jpg").stat().st_size > 1000
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["model"]["tag"] == "shapes:1"
    assert re.fullmatch("[0-9a-f]{64}", record["model"]["weights_sha256"])
    assert record["versions"]["detectron2_from"]
    assert record["device"]["device"]


def test_same_bytes_at_any_batch_size(d2run: Run, tmp_path: Path) -> None:
    for name, size in (("one", 1), ("again", 1), ("three", 3)):
        options = (f"output={name}", f"batch_size={size}", "device=cpu", "quiet=true")
        assert d2run("model=shapes", f"input={SCENES}", *options).returncode == 0
    one, again, three = (tmp_path / "cwd" / name for name in ("one", "again", "three"))
    for name in ("predictions.jsonl", "coco.json", "coco_results.json"):
        assert (one / name).read_bytes() == (again / name).read_bytes()
        assert (one / name).read_bytes() == (three / name).read_bytes()


def test_a_sweep_over_thresholds(d2run: Run, tmp_path: Path) -> None:
    arguments = readme_command("-m model=shapes")
    done = d2run(*arguments, f"output={tmp_path}/sweep", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    swept = [f"stage.min_score.threshold={each}" for each in (0.3, 0.5)]
    assert done.stderr.splitlines() == [f"job {i}: {each}" for i, each in enumerate(swept)]
    assert done.stdout.splitlines()[-2:] == [
        f"results of the sweep in {tmp_path}/sweep",
        f"look at them in {tmp_path}/sweep/sweep.html",
    ]
    rows = list(csv.DictReader((tmp_path / "sweep/sweep.csv").read_text().splitlines()))
    assert [row["overrides"] for row in rows] == swept
    assert [(row["status"], row["images"]) for row in rows] == [("0", "8")] * 2
    found = [int(row["detections"]) for row in rows]
    assert found == sorted(found, reverse=True)
    jobs = sorted((tmp_path / "sweep").glob("*/run.json"))
    assert [path.parent.name for path in jobs] == ["0", "1"]
    thresholds = []
    for path in jobs:
        config = json.loads(path.read_text())["config"]
        thresholds.append(config["stage"]["min_score"]["threshold"])
        scores = [
            instance["score"]
            for line in lines(path.parent / "predictions.jsonl")
            for instance in line["instances"]
        ]
        assert min(scores) >= thresholds[-1]
    assert thresholds == [0.3, 0.5]


def test_save_and_use_a_stored_model(d2run: Run, tmp_path: Path) -> None:
    saved = d2run("runner=save", "model=shapes", "model.name=my_shapes")
    assert saved.returncode == 0, saved.stderr
    assert saved.stdout.startswith("saved my_shapes:")
    for model, out in (("model=shapes", "a"), ("model=stored", "b")):
        tag = ["model.tag=my_shapes"] if out == "b" else []
        done = d2run(model, *tag, f"input={SCENES}", f"output={out}", "device=cpu", "quiet=true")
        assert done.returncode == 0, done.stderr
    a, b = (tmp_path / "cwd" / name / "predictions.jsonl" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_a_damaged_stored_model_is_refused(d2run: Run, tmp_path: Path) -> None:
    d2run("runner=save", "model=shapes", "model.name=my_shapes")
    weights = next((tmp_path / "d2run").rglob("weights.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    done = d2run("model=stored", "model.tag=my_shapes", f"input={SCENES}", "output=run")
    assert done.returncode == 1
    assert "weights.safetensors" in done.stderr
    assert not (tmp_path / "cwd/run/predictions.jsonl").exists()
