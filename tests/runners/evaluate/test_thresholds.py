"""Precision, recall and F1, and the thresholds that a run can use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evaluated import NAMES, make, records_of, write_run

from pipeline.stages.min_score import MinScore
from runners.evaluate.numbers.thresholds import _shortest


def stage_of(run: Path) -> MinScore:
    node = yaml.safe_load((run / "thresholds/stage/best_f1.yaml").read_text())["min_score"]
    assert node.pop("_target_") == "pipeline.stages.min_score.MinScore"
    return MinScore(**node)


def kept(run: Path, stage: MinScore) -> list[dict[str, Any]]:
    return [
        record
        | {
            "instances": [
                each
                for each in record["instances"]
                if np.float32(each["score"])
                >= np.float32(stage.thresholds.get(each["class_name"], stage.threshold))
            ]
        }
        for record in records_of(run)
    ]


def test_a_run_with_the_thresholds_has_the_f1_that_they_promise(
    library: str, tmp_path: Path, evaluate: Any
) -> None:
    truth, run = make(tmp_path)
    promised, report = evaluate(run, truth, metric="f1")
    stage = stage_of(run)
    assert set(stage.thresholds) == set(NAMES)
    write_run(tmp_path / "again", kept(run, stage))
    found, _ = evaluate(tmp_path / "again", truth)
    for name in NAMES:
        expected = promised["f1"]["classes"][name]
        assert found["f1"]["classes"][name]["unfiltered"] == {
            key: expected[key] for key in ("precision", "recall", "f1")
        }
        assert expected["f1"] > expected["unfiltered"]["f1"]
        assert expected["threshold"] == stage.thresholds[name]
    assert report.metric == promised["f1"]["together"]["f1"]
    assert found["f1"]["one"]["unfiltered"] == promised["f1"]["together"]


def test_no_threshold_is_better(tmp_path: Path, evaluate: Any) -> None:
    truth, run = make(tmp_path, n_images=20)
    best, _ = evaluate(run, truth)
    least = stage_of(run)
    for step in np.linspace(0, 0.95, 20).round(2).tolist():
        write_run(tmp_path / "other", kept(run, MinScore(step)))
        found, _ = evaluate(tmp_path / "other", truth)
        for name in NAMES:
            numbers = best["f1"]["classes"][name]
            f1 = found["f1"]["classes"][name]["unfiltered"]["f1"]
            assert f1 <= numbers["f1"]
            assert [row[3] for row in numbers["curve"] if row[0] == step] == [f1]
            assert least.thresholds[name] == numbers["threshold"]


def test_a_class_without_a_right_detection_has_no_threshold(tmp_path: Path, evaluate: Any) -> None:
    truth, run = make(tmp_path, n_images=20)
    records = records_of(run)
    for record in records:
        for each in record["instances"]:
            if each["class_name"] == "circle":
                each |= {"box": [0, 0, 1, 1], "mask": {"size": [200, 300], "counts": "PPf3"}}
    write_run(run, records)
    found, _ = evaluate(run, truth)
    assert found["f1"]["classes"]["circle"]["threshold"] is None
    assert found["f1"]["classes"]["circle"]["f1"] == 0
    assert set(stage_of(run).thresholds) == {"square", "triangle"}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5841, 0.6123, 0.6),
        (0.0, 0.6123, 0.6),
        (0.61, 0.6123, 0.612),
        (0.0, 0.05, 0.05),
        (0.9999998, 0.9999999, 0.9999999),
        (0.3, 0.7, 0.7),
        (0.5, 1.0, 1.0),
    ],
)
def test_thresholds_have_few_digits(low: float, high: float, expected: float) -> None:
    assert _shortest(low, high) == expected


def test_neighboring_scores_are_told_apart() -> None:
    high = np.float32(0.7)
    low = np.nextafter(high, np.float32(0))
    found = _shortest(float(str(low)), float(str(high)))
    assert low < np.float32(found) <= high
