"""``runner=evaluate`` as a user calls it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, Run, environment
from evaluated import make
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.sinks.report.html import read_page


def load_scenes() -> Any:
    spec = importlib.util.spec_from_file_location("scenes", ROOT / "examples/shapes/scenes.py")
    assert spec is not None
    assert spec.loader is not None
    scenes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scenes)
    return scenes


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    return make(tmp_path, n_images=12)


def test_a_finished_run(d2run: Run, made: tuple[Path, Path], tmp_path: Path) -> None:
    truth, run = made
    done = d2run("runner=evaluate", f"runner.run={run}", f"runner.ground_truth={truth}")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((run / "evaluation.json").read_text())
    for number in (found["box"]["AP"], found["mask"]["AP50"]):
        assert f"{100 * number:.2f}" in done.stdout
    assert "12 images matched by file name, " in done.stdout
    assert max(map(len, done.stdout.replace(str(tmp_path), "").splitlines())) <= 80
    assert list((tmp_path / "cwd").iterdir()) == []


def test_it_needs_no_torch(made: tuple[Path, Path], tmp_path: Path) -> None:
    truth, run = made
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['run.py', 'runner=evaluate', 'runner.run={run}',"
        f" 'runner.ground_truth={truth}', 'quiet=true']\n"
        f"try: runpy.run_path({str(ROOT / 'run.py')!r}, run_name='__main__')\n"
        "except SystemExit as exc: assert not exc.code, exc.code\n"
        "assert not {'torch', 'detectron2', 'matplotlib', 'cv2'} & sys.modules.keys()"
    )
    command = [sys.executable, "-P", "-c", code] if sys.version_info >= (3, 11) else []
    command = command or [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no ground truth: add runner.ground_truth=annotations.json"),
        (["runner.ground_truth={truth}"], "nothing to evaluate: add runner.run=DIR, or model="),
        (["runner.ground_truth=gone.json", "runner.run={run}"], "gone.json': no such file"),
        (["runner.ground_truth={truth}", "runner.run=gone"], "runner.run: no directory"),
        (["runner.ground_truth={truth}", "runner.run={run}", "input=."], "remove input or runner"),
        (["runner.keypoint_sigmas=[0]"], "runner.keypoint_sigmas: expected numbers above 0"),
    ],
)
def test_mistakes(d2run: Run, made: tuple[Path, Path], arguments: list[str], message: str) -> None:
    truth, run = made
    done = d2run("runner=evaluate", *(each.format(truth=truth, run=run) for each in arguments))
    assert done.returncode == 2
    assert message.lower() in done.stderr.lower()
    assert len(done.stderr.splitlines()) == 1
    assert not (run / "evaluation.json").exists()


def test_run_and_evaluate(d2run: Run, tmp_path: Path) -> None:
    scenes = ROOT / "examples/shapes/scenes"
    images = [
        {"id": i, "file_name": path.name, "width": 320, "height": 240}
        for i, path in enumerate(sorted(scenes.glob("*.jpg")), 7)
    ]
    for image in images:
        del image["width"], image["height"]
    (tmp_path / "x.json").write_text(
        json.dumps(
            {
                "images": images,
                "categories": [{"id": 3, "name": "square"}],
                "annotations": [
                    {"image_id": image["id"], "category_id": 3, "bbox": [9, 9, 60, 60]}
                    for image in images
                ],
            }
        )
    )
    done = d2run(
        "model=shapes", "runnable=fake", f"input={tmp_path / 'x.json'}", f"source.root={scenes}",
        "output=run", "runner=evaluate",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "predictions below a score of 0.5 are missing (stage.min_score)" in done.stderr
    found = json.loads((tmp_path / "cwd/run/evaluation.json").read_text())
    assert (found["matched_by"], found["images"]["evaluated"]) == ("id", len(images))
    restarted = d2run(
        "model=shapes", "runnable=fake", f"input={scenes}", "output=run",
        "runner.on_change=restart",
    )  # fmt: skip
    assert restarted.returncode == 0, restarted.stderr
    assert not (tmp_path / "cwd/run/evaluation.json").exists()


def test_the_thresholds_give_the_f1_that_they_promise(d2run: Run, tmp_path: Path) -> None:
    base = ["model=shapes", "runnable=fake", f"input={ROOT / 'examples/shapes/scenes'}"]
    done = d2run(*base, "stage=[]", "sink=[coco]", "output=all")
    assert done.returncode == 0, done.stderr
    truth = json.loads((tmp_path / "cwd/all/coco.json").read_text())
    right = sorted(truth["annotations"], key=lambda each: each["score"])[::2]
    (tmp_path / "x.json").write_text(json.dumps({**truth, "annotations": right}))
    evaluate = ["runner=evaluate", f"runner.ground_truth={tmp_path / 'x.json'}"]
    assert d2run(*evaluate, "runner.run=all").returncode == 0
    promised = json.loads((tmp_path / "cwd/all/evaluation.json").read_text())["f1"]
    done = d2run(*base, *evaluate, "--config-dir", "all/thresholds", "stage=[best_f1]",
                 "output=best")  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_promise(promised, tmp_path / "cwd/best")
    assert promised["together"]["f1"] > promised["one"]["unfiltered"]["f1"]


def test_it_updates_the_page_of_the_run(d2run: Run, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/shapes/scenes", tmp_path / "scenes")
    done = d2run("model=shapes", "runnable=fake", f"input={tmp_path}/scenes", "output=run",
                 "sink=[coco,report]", "sink.report.max_images=2")  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "cwd/run"
    before = read_page(run / "report.html")[0]
    truth = json.loads((run / "coco.json").read_text())
    truth["annotations"] = truth["annotations"][::2]
    (tmp_path / "x.json").write_text(json.dumps(truth))
    shutil.rmtree(tmp_path / "scenes")
    done = d2run("runner=evaluate", f"runner.ground_truth={tmp_path}/x.json", "runner.run=run")
    assert (done.returncode, done.stderr.count("error")) == (0, 0)
    data, facts = read_page(run / "report.html")
    found = json.loads((run / "evaluation.json").read_text())
    assert facts["evaluation"]["metric"] == found["metric"]
    kept = {image["id"]: image["src"] for image in before["images"]}
    sources = {image["id"]: image["src"] for image in data["images"]}
    assert kept.items() <= sources.items()
    assert len(sources) > len(kept)  # the worst, without pixels


def check_promise(promised: Any, run: Path) -> None:
    found = json.loads((run / "evaluation.json").read_text())["f1"]
    for name, numbers in promised["classes"].items():
        again = found["classes"][name]["unfiltered"]
        assert again == {key: numbers[key] for key in ("precision", "recall", "f1")}


@pytest.mark.detectron2
@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_500_scenes(d2run: Run, tmp_path: Path) -> None:
    truth = load_scenes().write(1, 500, tmp_path / "scenes")
    base = ["model=shapes", f"input={truth}", "runner=evaluate", "device=cpu", "quiet=true"]
    options = {"timeout": 1800}
    done = d2run(*base, "model.score_threshold=0.05", "stage=[]", "sink=[coco]", "output=all",
                 **options)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "cwd/all/evaluation.json").read_text())
    results = json.loads((tmp_path / "cwd/all/coco_results.json").read_text())
    for kind, library_kind in (("box", "bbox"), ("mask", "segm")):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(truth))
            given = [{**each} for each in results]
            for each in given:
                del each["segmentation" if kind == "box" else "bbox"]
            judge = COCOeval(coco, coco.loadRes(given), library_kind)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        numbers = [value for name, value in found[kind].items() if name != "classes"]
        assert [-1 if each is None else each for each in numbers] == judge.stats.tolist()
        assert numbers[0] > 0.8
    done = d2run(*base, "model.score_threshold=0.05", "--config-dir", "all/thresholds",
                 "stage=[best_f1]", "sink=[]", "output=best", **options)  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_promise(found["f1"], tmp_path / "cwd/best")
