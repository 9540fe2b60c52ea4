"""A COCO dataset as input: results that its annotations can judge."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import random
from pathlib import Path

import cv2
import pytest
from command_line import ROOT, Run

from pipeline import store

pytestmark = pytest.mark.detectron2

N_SCENES = 6


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """A dataset whose order and ids do not follow the names of its files."""
    spec = importlib.util.spec_from_file_location("scenes", ROOT / "examples/shapes/scenes.py")
    assert spec is not None
    assert spec.loader is not None
    scenes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scenes)
    path = scenes.write(5, N_SCENES, tmp_path / "scenes")
    data = json.loads(path.read_text())
    ids = {i: 1000 - 7 * i for i in range(1, N_SCENES + 1)}
    for image in data["images"]:
        image["id"] = ids[image["id"]]
    for annotation in data["annotations"]:
        annotation["image_id"] = ids[annotation["image_id"]]
    random.Random(3).shuffle(data["images"])
    moved = tmp_path / "labels" / "annotations.json"
    moved.parent.mkdir()
    moved.write_text(json.dumps(data))
    return moved


def detectron2_scores(annotations: Path, folder: Path, tmp_path: Path) -> dict[str, list[float]]:
    """Return what Detectron2's own evaluator finds for its own predictor."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import load_coco_json
    from detectron2.evaluation import COCOEvaluator

    predictor = store.load_model("shapes")
    name = f"shuffled_{tmp_path.name}"
    with contextlib.redirect_stdout(io.StringIO()):
        images = load_coco_json(str(annotations), str(folder), name)
        MetadataCatalog.get(name).set(json_file=str(annotations), image_root=str(folder))
        evaluator = COCOEvaluator(
            name, tasks=("bbox", "segm"), distributed=False, output_dir=str(tmp_path / "theirs"),
            use_fast_impl=False,
        )  # fmt: skip
        evaluator.reset()
        for image in images:
            output = predictor(cv2.imread(image["file_name"]))
            evaluator.process([image], [output])
        found = evaluator.evaluate()
    DatasetCatalog.pop(name, None)
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    return {kind: [found[kind][key] for key in keys] for kind in ("bbox", "segm")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_scores_equal_those_of_detectron2(d2run: Run, annotations: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    done = d2run(
        "model=shapes", f"input={annotations}", f"source.root={folder}", "stage=[]", "output=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    theirs = detectron2_scores(annotations, folder, tmp_path)
    done = d2run("runner=evaluate", "runner.run=run", f"runner.ground_truth={annotations}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "cwd/run/evaluation.json").read_text())
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        numbers = list(found[name].values())[:6]
        ours = [math.nan if each is None else 100 * each for each in numbers]
        assert ours[0] > 50
        assert ours == pytest.approx(theirs[kind], abs=1e-6, nan_ok=True)


def test_categories_that_differ_are_a_warning(d2run: Run, tmp_path: Path) -> None:
    scenes = ROOT / "examples/shapes/scenes"
    images = [{"id": i, "file_name": path.name} for i, path in enumerate(scenes.glob("*.jpg"), 5)]
    data = {"images": images[:1], "categories": [{"id": 1, "name": "hexagon"}]}
    (tmp_path / "x.json").write_text(json.dumps(data))
    done = d2run(
        "model=shapes", "runnable=fake", f"input={tmp_path / 'x.json'}", f"source.root={scenes}",
        "output=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the model does not know the categories hexagon" in done.stderr
    run = json.loads((tmp_path / "cwd/run/run.json").read_text())
    assert any("hexagon" in text for text in run["warnings"])
    (line,) = (tmp_path / "cwd/run/predictions.jsonl").read_text().splitlines()
    assert json.loads(line)["image_id"] == 5
