"""Panoptic quality of a run with a panoptic ground truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.records import Categories
from pipeline.sinks.coco_panoptic import write_panoptic

SIZE = HEIGHT, WIDTH = 40, 50
THINGS, STUFF = ("person", "cat"), ("sky", "grass")


def save(path: Path, segments: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = np.stack([segments >> 16, segments >> 8 & 255, segments & 255], -1)
    assert cv2.imwrite(str(path), colors.astype(np.uint8))


def scene(top: int) -> np.ndarray:
    segments = np.zeros(SIZE, np.int32)
    segments[top:20, 5:20], segments[20:] = 1, 300  # a cat, and the sky
    return segments


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    """Two images: the cat is found where it is, and 3 px too low."""
    run, maps = tmp_path / "run", tmp_path / "truth"
    records, annotations = [], []
    for i, top in enumerate((5, 8)):
        save(maps / f"{i}.png", scene(5))
        save(run / f"panoptic/{i}.jpg.png", scene(top))
        areas = {number: int((scene(top) == number).sum()) for number in (1, 300)}
        segments = [
            {"id": 1, "class_id": 1, "class_name": "cat", "is_thing": True, "area": areas[1]},
            {"id": 300, "class_id": 0, "class_name": "sky", "is_thing": False, "area": areas[300]},
        ]
        records.append(
            {"asset": f"{i}.jpg", "frame": 0, "time_s": None, "width": WIDTH, "height": HEIGHT,
             "image_id": i + 1, "instances": [],
             "panoptic_seg": {"file": f"panoptic/{i}.jpg.png", "segments": segments}}
        )  # fmt: skip
        infos = [
            {"id": number, "category_id": category_id, "area": int((scene(5) == number).sum()),
             "bbox": [0, 0, 1, 1], "iscrowd": 0}
            for number, category_id in ((1, 7), (300, 3))
        ]  # fmt: skip
        annotations.append({"image_id": 50 - i, "file_name": f"{i}.png", "segments_info": infos})
    categories = [
        {"id": 3, "name": "sky-other-merged", "isthing": 0}, {"id": 7, "name": "cat", "isthing": 1},
    ]  # fmt: skip
    images = [
        {"id": 50 - i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in (0, 1)
    ]
    truth = tmp_path / "truth.json"
    truth.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    (run / "predictions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    model = {"class_names": THINGS, "stuff_names": STUFF}
    config = {"model": {"score_threshold": 0.5}}  # which does not change label maps
    (run / "run.json").write_text(json.dumps({"state": "ended", "config": config, "model": model}))
    write_panoptic(
        run / "panoptic.json", run / "predictions.jsonl", Categories(THINGS, stuff_names=STUFF)
    )
    return truth, run


def test_panoptic_quality(made: Any, evaluate: Any) -> None:
    truth, run = made
    found, report = evaluate(run, truth)
    one, half = {"PQ": 1, "SQ": 1, "RQ": 1}, {"PQ": 0.9, "SQ": 0.9, "RQ": 1}
    assert found["panoptic"] == {
        "PQ": pytest.approx(0.95), "SQ": pytest.approx(0.95), "RQ": 1,
        "things": pytest.approx(half), "stuff": one,
        "classes": {"sky": one, "cat": pytest.approx(half)},
    }  # fmt: skip
    assert report.metric == found["panoptic"]["PQ"]
    assert found["matched_by"] == "file name"
    assert "box" not in found
    assert not (run / "thresholds").exists()
    (warning,) = found["warnings"]
    assert "has no categories person, grass" in warning


def test_mistakes(made: Any, evaluate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, run = made
    with pytest.raises(ConfigError, match="slice_by: not available with a panoptic ground truth"):
        evaluate(run, truth, slice_by="width")
    whole = truth.read_text()
    truth.write_text(whole.replace('"cat"', '"dog"'))
    with pytest.raises(ConfigError, match="does not know the categories dog"):
        evaluate(run, truth)
    truth.write_text(whole)
    (run / "panoptic.json").rename(run / "other.json")
    with pytest.raises(ConfigError, match=r"has no panoptic.json.*sink=coco"):
        evaluate(run, truth)
    (truth.parent / "truth").rename(truth.parent / "other")
    with pytest.raises(ConfigError, match=r"no directory .*truth' with the label maps"):
        evaluate(run, truth)
    monkeypatch.setattr("runners.evaluate.engine.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"d2run\[evaluate\]"):
        evaluate(run, truth)
