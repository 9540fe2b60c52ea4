"""Confusion, calibration, error types, worst images and slices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluated import NAMES, make, records_of, rle, write_run

from pipeline.errors import ConfigError


def instance(name: str, box: list[float], score: float) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {
        "box": box, "score": score, "class_id": NAMES.index(name), "class_name": name,
        "mask": rle(x1, y1, x2 - x1, y2 - y1),
    }  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    """Three images: one perfect, one with an error of each kind, one with two misses."""
    boxes = {
        "circle": [10, 10, 50, 50],
        "square": [100, 10, 150, 60],
        "triangle": [10, 90, 60, 150],
    }
    truth, run = make(tmp_path, n_images=3)
    data = json.loads(truth.read_text())
    data["annotations"] = [
        {
            "id": 0, "image_id": image["id"], "category_id": 10 * (i + 1), "iscrowd": 0,
            "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": rle(x1, y1, x2 - x1, y2 - y1),
        }
        for image in data["images"]
        for i, (x1, y1, x2, y2) in enumerate(boxes.values())
    ]  # fmt: skip
    for i, image in enumerate(data["images"]):
        image["camera"] = ["left", "right", "right"][i]
    truth.write_text(json.dumps(data))
    found = [
        [instance(name, boxes[name], 0.9) for name in NAMES],
        [
            instance("circle", boxes["circle"], 0.9),
            instance("circle", boxes["square"], 0.8),  # called circle
            instance("square", [200, 100, 250, 150], 0.9),  # nothing is there; triangle is missed
        ],
        [instance("triangle", boxes["triangle"], 0.9)],
    ]
    records = records_of(run)
    for record, instances in zip(records, found, strict=True):
        record["instances"] = instances
        record["columns"] = {"night": record["asset"] != "sub/0.jpg"}
    write_run(run, records)
    return truth, run


def test_confusion_and_worst_images(library: str, scene: Any, evaluate: Any) -> None:
    truth, run = scene
    found, _ = evaluate(run, truth)
    assert found["confusion"] == {
        "classes": [*NAMES, None],
        "matrix": [[2, 0, 0, 1], [0, 1, 0, 2], [0, 0, 2, 1], [0, 1, 0, 0]],
    }  # the best threshold of circle is 0.9, which drops the wrong one
    assert found["worst_images"] == [
        {
            "asset": "sub/1.jpg", "frame": 0, "image_id": 993, "errors": 3,
            "reasons": ["1 square missed", "1 triangle missed", "1 square where there is none"],
        },
        {
            "asset": "sub/2.jpg", "frame": 0, "image_id": 986, "errors": 2,
            "reasons": ["1 circle missed", "1 square missed"],
        },
    ]  # fmt: skip


def test_a_confused_class(scene: Any, evaluate: Any) -> None:
    truth, run = scene
    records = records_of(run)
    records[1]["instances"][1]["score"] = 0.95
    write_run(run, records)
    found, _ = evaluate(run, truth)
    assert found["confusion"]["matrix"][1] == [1, 1, 0, 1]
    assert "1 square detected as circle" in found["worst_images"][0]["reasons"]


def test_positions(library: str, scene: Any, evaluate: Any) -> None:
    truth, run = scene  # 300 x 200 px: circles in the top left, squares above the middle
    found, _ = evaluate(run, truth)
    places = {name: each for name, each in found["positions"].items() if each["instances"]}
    assert {name: each["instances"] for name, each in places.items()} == {
        "top left": 3, "top center": 3, "middle left": 3,
    }  # fmt: skip
    assert places["top left"] | {"AP50": None} == {
        "instances": 3, "AP50": None, "precision": 1.0, "recall": 2 / 3,
        "f1": pytest.approx(0.8),
    }  # fmt: skip
    assert places["top left"]["AP50"] == pytest.approx(67 / 101)
    # the square where there is none is in the middle, to the right: it counts there
    assert places["top center"]["precision"] == 1
    assert found["positions"]["middle right"] == {
        "instances": 0, "AP50": None, "precision": 0.0, "recall": None, "f1": 0.0,
    }  # fmt: skip


def test_positions_add_up(library: str, tmp_path: Path, evaluate: Any) -> None:
    found, _ = evaluate(*make(tmp_path)[::-1])
    cells = {name: each for name, each in found["positions"].items() if name != "at the edge"}
    assert sum(each["instances"] for each in cells.values()) == found["instances"]
    assert 0 < found["positions"]["at the edge"]["instances"] < found["instances"]
    rights = sum(each["recall"] * each["instances"] for each in cells.values())
    assert rights == pytest.approx(found["f1"]["together"]["recall"] * found["instances"])


def test_the_ap_of_a_position_is_cocos(tmp_path: Path, evaluate: Any) -> None:
    truth, run = make(tmp_path)
    data = json.loads(truth.read_text())
    for image in data["images"]:  # everything is in one cell
        del image["width"], image["height"]
    truth.write_text(json.dumps(data))
    records = records_of(run)
    for record in records:
        record["width"] = record["height"] = 100_000
    write_run(run, records)
    found, _ = evaluate(run, truth)
    assert found["positions"]["top left"]["instances"] == found["instances"]
    assert found["positions"]["top left"]["AP50"] == pytest.approx(found["mask"]["AP50"], abs=1e-12)


def test_slices(library: str, scene: Any, evaluate: Any) -> None:
    truth, run = scene
    found, _ = evaluate(run, truth, slice_by="camera")
    assert found["slices"]["column"] == "camera"
    left, right = found["slices"]["values"]["left"], found["slices"]["values"]["right"]
    assert (left["images"], left["instances"], left["errors"]) == (1, 3, 0)
    assert (right["images"], right["instances"], right["errors"]) == (2, 6, 5)
    assert left["box"]["AP"] == left["mask"]["AP"] == pytest.approx(1)
    assert 0 < found["slices"]["values"]["right"]["box"]["AP"] < 0.5
    night, _ = evaluate(run, truth, slice_by="night")
    assert list(night["slices"]["values"]) == ["False", "True"]
    assert night["slices"]["values"]["True"] == found["slices"]["values"]["right"]
    with pytest.raises(ConfigError, match="no image has the column 'camra'; did you mean 'camera'"):
        evaluate(run, truth, slice_by="camra")


def test_columns_with_many_values_are_refused(tmp_path: Path, evaluate: Any) -> None:
    truth, run = make(tmp_path)
    with pytest.raises(ConfigError, match="'file_name' has 60 values; use one with at most 50"):
        evaluate(run, truth, slice_by="file_name")


def test_both_libraries_agree(
    tmp_path: Path, evaluate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, run = make(tmp_path, with_keypoints=True)
    fast, _ = evaluate(run, truth)
    stage = (run / "thresholds/stage/best_f1.yaml").read_bytes()
    monkeypatch.setattr("runners.evaluate.engine.find_spec", lambda name: None)
    slow, _ = evaluate(run, truth)
    assert (run / "thresholds/stage/best_f1.yaml").read_bytes() == stage
    assert slow["tide"] is None
    assert {k: v for k, v in fast.items() if k not in ("engine", "tide")} == {
        k: v for k, v in slow.items() if k not in ("engine", "tide")
    }


def test_calibration_and_confusion_are_those_of_hotcoco(tmp_path: Path, evaluate: Any) -> None:
    from runners.evaluate.data import join
    from runners.evaluate.engine import accumulated
    from runners.evaluate.numbers.mistakes import mistakes
    from runners.evaluate.reading.matching import match
    from runners.evaluate.reading.results import read_results
    from runners.evaluate.reading.truth import read_truth

    path, run = make(tmp_path)
    data = json.loads(path.read_text())  # the libraries treat crowds in their own ways
    data["annotations"] = [each for each in data["annotations"] if not each["iscrowd"]]
    path.write_text(json.dumps(data))
    found, _ = evaluate(run, path)
    results, truth = read_results(run, "run"), read_truth(path)
    joined = join(results, truth, match(results, truth), None)
    judge = joined.dataset.judge("mask")
    accumulated(judge)
    assert found["calibration"]["ece"] == pytest.approx(judge.calibration()["ece"], abs=1e-3)
    matrix = mistakes(joined, np.full(3, 0.5, np.float32), 0.5).confusion()
    assert matrix.tolist() == judge.confusion_matrix(min_score=0.5)["matrix"].tolist()


def test_error_types(scene: Any, evaluate: Any) -> None:
    truth, run = scene
    found, _ = evaluate(run, truth)
    counts = {name: each["count"] for name, each in found["tide"].items()}
    assert counts["wrong class"] == counts["background"] == 1
    assert counts["missed"] == 3
    assert counts["duplicate"] == counts["wrong place"] == 0
    assert all(each["ap"] >= 0 for each in found["tide"].values())
