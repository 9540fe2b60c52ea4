"""The numbers are those of pycocotools, to the last bit, with either library."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluated import make, records_of, write_run
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.sinks.coco import coco_result

KINDS = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}
ALL = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
STATS = {
    "box": ALL,
    "mask": ALL,
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}


def pycocotools_stats(truth: Path, run: Path, kind: str, classes: Any = None) -> list[Any]:
    """Return what pycocotools finds, as Detectron2 calls it: masks are judged without boxes."""
    data = json.loads(truth.read_text())
    for annotation in data["annotations"]:
        annotation["id"] += 1  # pycocotools takes a match with the id 0 for none
    ids = {image["file_name"]: image["id"] for image in data["images"]}
    results = [
        coco_result(each, ids[record["asset"]], 10 * (each["class_id"] + 1))
        for record in records_of(run)
        for each in record["instances"]
    ]
    for result in results:
        if kind == "mask":
            del result["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = data
        coco.createIndex()
        if results:
            found = coco.loadRes(results)
        else:
            found = COCO()
            found.dataset = {**data, "annotations": []}
            found.createIndex()
        judge = COCOeval(coco, found, KINDS[kind])
        if classes is not None:
            judge.params.catIds = classes
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [None if value == -1 else value for value in judge.stats.tolist()]


@pytest.mark.parametrize("with_keypoints", [False, True])
def test_numbers_are_those_of_pycocotools(
    library: str, with_keypoints: bool, tmp_path: Path, evaluate: Any
) -> None:
    truth, run = make(tmp_path, with_keypoints=with_keypoints)
    found, report = evaluate(run, truth)
    kinds = ["box", "mask", "keypoints"] if with_keypoints else ["box", "mask"]
    assert [kind for kind in KINDS if kind in found] == kinds
    assert found["engine"].startswith(library)
    for kind in kinds:
        expected = pycocotools_stats(truth, run, kind)
        assert [found[kind][name] for name in STATS[kind]] == expected
        assert 0.1 < expected[0] < 0.9
    for i, name in enumerate(("circle", "square", "triangle"), 1):
        expected = pycocotools_stats(truth, run, "mask", [10 * i])
        assert [found["mask"]["classes"][name][key] for key in ALL] == expected
    assert found["metric"] == {"name": "mask.AP", "value": found["mask"]["AP"]}
    assert report.metric == found["mask"]["AP"]
    assert report.output == run


def test_without_detections_every_number_is_zero(
    library: str, tmp_path: Path, evaluate: Any
) -> None:
    truth, run = make(tmp_path, n_images=9)
    write_run(run, [{**record, "instances": []} for record in records_of(run)])
    found, report = evaluate(run, truth)
    for kind in ("box", "mask"):
        assert [found[kind][name] for name in ALL] == pycocotools_stats(truth, run, kind)
    assert report.metric == found["detections"] == 0


def test_equal_runs_give_equal_bytes(tmp_path: Path, evaluate: Any) -> None:
    truth, run = make(tmp_path, n_images=9)
    evaluate(run, truth)
    before = (run / "evaluation.json").read_bytes()
    evaluate(run, truth)
    assert (run / "evaluation.json").read_bytes() == before
    assert str(tmp_path).encode() not in before


def test_keypoints_of_other_datasets_need_sigmas(tmp_path: Path, evaluate: Any) -> None:
    truth, run = make(tmp_path, n_images=12, with_keypoints=True)
    data, records = json.loads(truth.read_text()), records_of(run)
    for annotation in data["annotations"]:
        annotation["keypoints"] = annotation["keypoints"][:9]
        annotation["num_keypoints"] = int(np.sum(np.array(annotation["keypoints"][2::3]) > 0))
    for record in records:
        for each in record["instances"]:
            each["keypoints"] = each["keypoints"][:3]
    truth.write_text(json.dumps(data))
    write_run(run, records)
    found, _ = evaluate(run, truth)
    assert "keypoints" not in found
    assert any("runner.keypoint_sigmas" in warning for warning in found["warnings"])
    wide, _ = evaluate(run, truth, keypoint_sigmas=[0.5, 0.5, 0.5])
    narrow, _ = evaluate(run, truth, keypoint_sigmas=[0.01, 0.01, 0.01])
    assert wide["keypoints"]["AP"] > narrow["keypoints"]["AP"]
