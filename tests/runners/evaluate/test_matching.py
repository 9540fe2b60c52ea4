"""Which images and classes are compared, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from evaluated import make, records_of, write_run

from pipeline.errors import ConfigError


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    return make(tmp_path, n_images=12)


def edit(path: Path, change: Any) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def rename(pattern: str) -> Any:
    def change(data: Any) -> None:
        for i, image in enumerate(data["images"]):
            image["file_name"] = pattern.format(i)

    return change


@pytest.mark.parametrize(
    ("pattern", "by"),
    [
        ("sub/{}.jpg", "file name"),
        ("./sub/{}.jpg", "file name"),
        ("sub\\{}.jpg", "file name"),
        ("/data/local-files/?d=sub/{}.jpg", "file name"),
        ("elsewhere/{}.jpg", "last part of the file name"),
        ("{}.jpg", "last part of the file name"),
    ],
)
def test_other_ids(made: Any, evaluate: Any, pattern: str, by: str) -> None:
    truth, run = made
    expected, _ = evaluate(run, truth)
    edit(truth, rename(pattern))
    found, _ = evaluate(run, truth)
    assert found["matched_by"] == by
    assert found["mask"] == expected["mask"]


def test_equal_ids(made: Any, evaluate: Any) -> None:
    truth, run = made
    expected, _ = evaluate(run, truth)
    ids = [image["id"] for image in json.loads(truth.read_text())["images"]]
    records = [{**r, "image_id": i} for r, i in zip(records_of(run), ids, strict=True)]
    write_run(run, records)
    found, _ = evaluate(run, truth)
    assert found["matched_by"] == "id"
    assert found["mask"] == expected["mask"]
    edit(truth, rename("renamed_{}.jpg"))  # believed only if the run took them from a dataset
    with pytest.raises(ConfigError, match="no image in common; its images are named 'renamed_0"):
        evaluate(run, truth)
    write_run(run, records, {"input": "annotations.json"})
    found, _ = evaluate(run, truth)
    assert found["matched_by"] == "id"


def test_equal_ids_of_other_images_are_not_matched(made: Any, evaluate: Any) -> None:
    truth, run = made
    expected, _ = evaluate(run, truth)

    def number(data: Any) -> None:  # the ids of the run, but backwards
        n = len(data["images"])
        ids = {image["id"]: n - i for i, image in enumerate(data["images"])}
        for image in data["images"]:
            image["id"] = ids[image["id"]]
        for annotation in data["annotations"]:
            annotation["image_id"] = ids[annotation["image_id"]]

    edit(truth, number)
    found, _ = evaluate(run, truth)
    assert found["matched_by"] == "file name"
    assert found["box"]["AP50"] == pytest.approx(expected["box"]["AP50"], abs=0.02)


def test_ambiguous_names_are_not_matched(made: Any, evaluate: Any) -> None:
    truth, run = made
    edit(truth, rename("{}/same.jpg"))
    write_run(run, [{**r, "asset": f"x/{i}/same.jpg"} for i, r in enumerate(records_of(run))])
    with pytest.raises(ConfigError, match="no image in common"):
        evaluate(run, truth)


def test_images_of_one_side_are_named(made: Any, evaluate: Any) -> None:
    truth, run = made
    edit(truth, lambda data: data["images"].append({"id": 5, "file_name": "more.jpg"}))
    write_run(run, [*records_of(run)[2:], {**records_of(run)[0], "asset": "other.jpg"}])
    found, _ = evaluate(run, truth)
    assert found["images"] == {"evaluated": 10, "only_in_ground_truth": 3, "only_in_run": 1}
    assert [w for w in found["warnings"] if "3 of 13 images of the ground truth" in w]
    assert [w for w in found["warnings"] if "1 of 11 images of the run are not" in w]


def test_classes_are_matched_by_name(made: Any, evaluate: Any) -> None:
    truth, run = made
    expected, _ = evaluate(run, truth)

    def turn(data: Any) -> None:
        for entry in data["categories"]:
            entry["id"] = 40 - entry["id"]
        for entry in data["annotations"]:
            entry["category_id"] = 40 - entry["category_id"]

    edit(truth, turn)
    found, _ = evaluate(run, truth)
    assert found["classes"] == ["triangle", "square", "circle"]
    assert found["mask"]["classes"] == expected["mask"]["classes"]


def test_other_classes_are_refused(made: Any, evaluate: Any) -> None:
    truth, run = made

    def change(data: Any) -> None:
        for entry in data["categories"]:
            entry["name"] = f"a {entry['name']}"

    edit(truth, change)
    with pytest.raises(ConfigError, match=r"none of the model's classes \(circle, square, trian"):
        evaluate(run, truth)
    assert not (run / "evaluation.json").exists()


def test_classes_of_one_side_are_named(made: Any, evaluate: Any) -> None:
    truth, run = made
    edit(truth, lambda data: data["categories"][0].update(name="disk"))
    found, _ = evaluate(run, truth)
    assert found["classes"] == ["square", "triangle"]
    assert [w for w in found["warnings"] if "does not know the categories disk" in w]
    assert [w for w in found["warnings"] if "has no categories circle" in w]


def test_other_sizes_are_refused(made: Any, evaluate: Any) -> None:
    truth, run = made
    edit(truth, lambda data: data["images"][3].update(width=200, height=300))
    with pytest.raises(ConfigError, match=r"1 of 12 images.*'sub/3.jpg' is 200 x 300.*exif=false"):
        evaluate(run, truth)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read .*not JSON"),
        ("[]", "it has no 'images'"),
        ('{"images": [], "categories": []}', "it has no 'annotations'"),
        ('{"images": [{"id": 1}], "categories": [], "annotations": []}', "no 'file_name'"),
    ],
)
def test_a_file_that_is_no_ground_truth(
    made: Any, evaluate: Any, content: str, message: str
) -> None:
    truth, run = made
    truth.write_text(content)
    with pytest.raises(ConfigError, match=message):
        evaluate(run, truth)


def annotation(**changes: Any) -> Any:
    def change(data: Any) -> None:
        data["annotations"][0].update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del data["annotations"][0][key]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (annotation(image_id=5), r"annotations\[0\]: there is no image with the id 5"),
        (annotation(category_id=None), r"annotations\[0\] has no 'category_id'"),
        (annotation(bbox=None, segmentation=None), "neither 'bbox' nor 'segmentation'"),
        (annotation(segmentation={"size": 3, "counts": "x"}), "'segmentation' cannot be read"),
        (annotation(bbox=[1, 2, 3]), "expected 'bbox' to be x, y, width, height"),
        (lambda data: data["categories"][0].update(name="square"), "two categories have the name"),
        (lambda data: data["images"][0].update(id=993), "two images have the id 993"),
    ],
)
def test_a_damaged_ground_truth(made: Any, evaluate: Any, change: Any, message: str) -> None:
    truth, run = made
    edit(truth, change)
    with pytest.raises(ConfigError, match=message):
        evaluate(run, truth)


def test_a_directory_without_a_run(made: Any, evaluate: Any, tmp_path: Path) -> None:
    truth, run = made
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="run directory"):
        evaluate(tmp_path / "empty", truth)
    assert list((tmp_path / "empty").iterdir()) == []
    with pytest.raises(ConfigError, match="no directory"):
        evaluate(tmp_path / "missing", truth)
    (run / "predictions.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"holds no predictions.jsonl"):
        evaluate(run, truth)


MIN_SCORE = "pipeline.stages.min_score.MinScore"


@pytest.mark.parametrize(
    ("config", "warning"),
    [
        ({"stage": {"min_score": {"_target_": MIN_SCORE, "threshold": 0.5}}}, "a score of 0.5"),
        ({"stage": {"x": {"_target_": "a.TopK", "k": 20}}}, "stage.x.k=20 capped"),
        ({"stage": {"x": {"_target_": "a.KeepClasses"}}}, "stage.x removed predictions"),
        ({"model": {"score_threshold": 0.3}}, r"a score of 0.3 .*model.score_threshold"),
        ({"runnable": {"max_instances": 9}}, "runnable.max_instances=9 capped"),
        ({"stage": {"min_score": {"_target_": MIN_SCORE, "threshold": 0.05}}}, ""),
        ({"stage": {"x": {"_target_": "a.TopK", "k": 100}}}, ""),
    ],
)
def test_predictions_that_were_removed(
    made: Any, evaluate: Any, config: dict[str, Any], warning: str
) -> None:
    truth, run = made
    write_run(run, records_of(run), config)
    found, _ = evaluate(run, truth)
    if warning:
        assert re.search(warning, found["warnings"][0])
    else:
        assert found["warnings"] == []


def test_metric(made: Any, evaluate: Any) -> None:
    truth, run = made
    found, report = evaluate(run, truth, metric="box.AP50")
    assert report.metric == found["box"]["AP50"]
    with pytest.raises(ConfigError, match=r"metric: expected one of box.AP, .*got 'AP51'"):
        evaluate(run, truth, metric="AP51")
