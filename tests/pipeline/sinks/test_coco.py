from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from journals import write_journal
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.errors import ConfigError, OutputError
from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Frame, Predictions, Result, Segment
from pipeline.sinks.coco import CocoJson

SIZE = (40, 60)
CATEGORIES = Categories(("person", "cat"), (1, 17), ("sky", "grass"), (187, 193))
POSE = Categories(
    ("person",), (1,), keypoint_names=tuple(f"k{i}" for i in range(17)), skeleton=((0, 1), (1, 2))
)
Row = tuple[str, Predictions]


def predictions(n: int = 2, *, masks: bool = True, **columns: Any) -> Predictions:
    boxes = np.float32([[5 * i, 4, 5 * i + 10.5, 20.25] for i in range(n)]).reshape(n, 4)
    dense = np.zeros((n, *SIZE), bool)
    for i in range(n):
        dense[i, 4:20, 5 * i : 5 * i + 10] = True
    columns = {"classes": np.arange(n) % 2} | columns
    return Predictions(
        SIZE,
        ("person", "cat"),
        boxes=boxes,
        scores=np.linspace(0.9, 0.5, n, dtype=np.float32),
        masks=InstanceMasks.from_dense(dense) if masks else None,
        **columns,
    )


def build(
    directory: Path, *rows: Row, categories: Categories = CATEGORIES, time_s: float | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    index = 0 if time_s is None else 3
    results = (
        Result(Frame(np.zeros((*p.image_size, 3), np.uint8), asset_id, index, time_s=time_s), p)
        for asset_id, p in rows
    )
    CocoJson(directory).build(write_journal(directory, results), categories)
    files = (directory / "coco.json", directory / "coco_results.json")
    dataset, plain = (json.loads(file.read_text("ascii")) for file in files)
    return dataset, plain


def test_entries(tmp_path: Path) -> None:
    dataset, results = build(
        tmp_path, ("a.jpg", predictions(track_ids=np.array([7, 8]))), ("b/c.jpg", predictions(1))
    )
    assert list(dataset) == ["info", "licenses", "images", "annotations", "categories"]
    assert dataset["images"][1] == {"id": 2, "file_name": "b/c.jpg", "width": 60, "height": 40}
    assert dataset["categories"] == [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}]
    ids = [(a["id"], a["image_id"], a["category_id"]) for a in dataset["annotations"]]
    assert ids == [(1, 1, 1), (2, 1, 17), (3, 2, 1)]
    second = dataset["annotations"][1]
    mask = second.pop("segmentation")
    assert second == {
        "id": 2, "image_id": 1, "category_id": 17, "bbox": [5.0, 4.0, 10.5, 16.25], "area": 160,
        "iscrowd": 0, "score": 0.5, "track_id": 8,
    }  # fmt: skip
    assert results[1] == {
        "image_id": 1, "category_id": 17, "bbox": [5.0, 4.0, 10.5, 16.25], "score": 0.5,
        "segmentation": mask,
    }  # fmt: skip


def test_without_masks(tmp_path: Path) -> None:
    dataset, results = build(tmp_path, ("a.jpg", predictions(1, masks=False)))
    assert dataset["annotations"][0]["area"] == 10.5 * 16.25
    assert dataset["annotations"][0]["segmentation"] == []
    assert "segmentation" not in results[0]


@pytest.mark.parametrize(
    ("kind", "masks"),
    [
        pytest.param("bbox", True, id="boxes of masks"),
        pytest.param("bbox", False, id="boxes"),
        pytest.param("segm", True, id="masks"),
        pytest.param("keypoints", False, id="keypoints"),
    ],
)
def test_pycocotools_scores_its_own_truth_as_perfect(
    tmp_path: Path, kind: str, masks: bool
) -> None:
    keypoints = None
    if kind == "keypoints":
        keypoints = np.random.default_rng(0).uniform(0, 40, (2, 17, 3)).astype(np.float32)
    p = predictions(masks=masks, keypoints=keypoints, classes=np.zeros(2, int))
    build(tmp_path, ("a.jpg", p), ("b.jpg", p), categories=POSE)
    truth = COCO(str(tmp_path / "coco.json"))
    found = truth.loadRes(str(tmp_path / "coco_results.json"))
    evaluation = COCOeval(truth, found, kind)
    if kind == "keypoints":  # the default leaves out medium and smaller objects
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, -1]
    assert precision.min() > 0.99


def test_keypoints(tmp_path: Path) -> None:
    keypoints = np.float32([[[10.5, 20.1, 0.9], [np.nan, 3, 0.8]]])
    dataset, results = build(
        tmp_path, ("a.jpg", predictions(1, keypoints=keypoints)), categories=POSE
    )
    assert dataset["annotations"][0]["keypoints"] == [10.0, 19.6, 2, 0, 0, 0]
    assert dataset["annotations"][0]["num_keypoints"] == 1
    assert results[0]["keypoints"] == [10.0, 19.6, 0.9, 0, 0, 0]
    assert dataset["categories"][0]["skeleton"] == [[1, 2], [2, 3]]
    assert dataset["categories"][0]["keypoints"][0] == "k0"


@pytest.mark.parametrize("field", ["boxes", "scores"])
def test_what_is_not_finite_is_left_out(tmp_path: Path, field: str) -> None:
    p = predictions(3)
    values = getattr(p, field).copy()
    values[1] = np.nan
    dataset, results = build(tmp_path, ("a.jpg", p.replace(**{field: values})))
    assert [annotation["id"] for annotation in dataset["annotations"]] == [1, 2]
    assert [annotation["bbox"][0] for annotation in dataset["annotations"]] == [0.0, 10.0]
    assert len(results) == 2


def test_nothing_at_all(tmp_path: Path) -> None:
    dataset, results = build(tmp_path)
    assert (dataset["images"], dataset["annotations"], results) == ([], [], [])
    assert COCO(str(tmp_path / "coco.json")).getCatIds() == [1, 17]


def shaped() -> Predictions:
    """One mask in two parts, one with a hole that holds an island, one without pixels."""
    dense = np.zeros((3, *SIZE), bool)
    dense[0, 2:5, 3:9] = dense[0, 5:12, 4:6] = dense[0, 30:, 50:] = True
    dense[1, 1:20, 20:40] = True
    dense[1, 5:15, 25:35] = False
    dense[1, 9, 30] = True
    return predictions(3, masks=False).replace(masks=InstanceMasks.from_dense(dense))


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
def test_polygons(tmp_path: Path) -> None:
    p = shaped()
    journal = write_journal(tmp_path, [Result(Frame(np.zeros((*SIZE, 3), np.uint8), "a.jpg"), p)])
    CocoJson(tmp_path, polygons=True).build(journal, CATEGORIES)
    truth = COCO(str(tmp_path / "coco.json"))
    annotations = list(truth.anns.values())
    kinds = [type(each["segmentation"]).__name__ for each in annotations]
    assert kinds == ["list", "dict", "dict"]  # polygons cannot have holes, or no points
    first = annotations[0]["segmentation"]
    assert first[0] == [50, 30, 50, 40, 60, 40, 60, 30]  # the edges of the pixels
    assert len(first) == 2
    assert p.masks is not None
    for annotation, dense in zip(annotations, p.masks.dense(), strict=True):
        assert np.array_equal(truth.annToMask(annotation), dense)
        assert annotation["area"] == dense.sum()
    results = json.loads((tmp_path / "coco_results.json").read_text())
    assert {type(result["segmentation"]) for result in results} == {dict}


def test_min_score(tmp_path: Path) -> None:
    frame = Frame(np.zeros((*SIZE, 3), np.uint8), "a.jpg")
    journal = write_journal(tmp_path, [Result(frame, predictions(5))])  # 0.9, 0.8 ... 0.5
    CocoJson(tmp_path, min_score=0.7).build(journal, CATEGORIES)  # compared as float32
    for name in ("coco.json", "coco_results.json"):
        content = json.loads((tmp_path / name).read_text())
        kept = content["annotations"] if name == "coco.json" else content
        assert [each["score"] for each in kept] == [0.9, 0.8, 0.7]


@pytest.mark.parametrize("options", [{"min_score": 2}, {"polygons": "yes"}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        CocoJson("anywhere", **options)


def test_frames_of_a_video_say_which(tmp_path: Path) -> None:
    dataset, _ = build(tmp_path, ("v.mp4", predictions()), time_s=0.12)
    assert dataset["images"] == [
        {"id": 1, "file_name": "v.mp4", "width": 60, "height": 40, "frame": 3, "time_s": 0.12}
    ]


@pytest.mark.parametrize(
    ("asset_id", "file_name", "exactly"),
    [
        pytest.param("猫.jpg", "猫.jpg", None, id="UTF-8"),
        pytest.param("caf\udce9.jpg", "caf\\xe9.jpg", "Y2Fm6S5qcGc=", id="not UTF-8"),
    ],
)
def test_names(tmp_path: Path, asset_id: str, file_name: str, exactly: str | None) -> None:
    dataset, _ = build(tmp_path, (asset_id, predictions()))
    assert dataset["images"][0]["file_name"] == file_name
    assert dataset["images"][0].get("file_name_b64") == exactly


def test_equal_lines_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        build(tmp_path / name, ("x.jpg", predictions(5)), ("y.jpg", predictions(0)))
    for name in ("coco.json", "coco_results.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_torn_line_leaves_the_old_files(tmp_path: Path) -> None:
    build(tmp_path, ("x.jpg", predictions()))
    before = {path: path.read_bytes() for path in tmp_path.glob("coco*.json")}
    with (tmp_path / "predictions.jsonl").open("a") as file:
        file.write('{"asset": ')
    with pytest.raises(OutputError, match="line 2"):
        CocoJson(tmp_path).build(tmp_path / "predictions.jsonl", CATEGORIES)
    assert {path: path.read_bytes() for path in tmp_path.glob("[c.]*") if path.is_file()} == before


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    build(tmp_path, ("x.jpg", predictions(1)))
    file = tmp_path / "predictions.jsonl"
    line = file.read_text()
    file.write_text("".join(line.replace('_id": 1,', f'_id": {i},', 1) for i in range(6_000)))
    tracemalloc.start()
    CocoJson(tmp_path).build(file, CATEGORIES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_500_000
    assert (tmp_path / "coco.json").read_bytes().count(b'"bbox"') == 6_000


def panoptic() -> Predictions:
    seg = np.zeros(SIZE, np.int32)
    seg[2:12, 3:23], seg[20:, :] = 1, 300
    segments = (Segment(1, 1, "cat", True, 0.9, 200), Segment(300, 0, "sky", False, None, 1200))
    stuff = ("sky", "grass")
    return predictions(1, panoptic_seg=seg, segments=segments, stuff_names=stuff)


def test_panoptic(tmp_path: Path) -> None:
    build(tmp_path, ("d/a.jpg", panoptic()), ("b.jpg", predictions()))
    dataset = json.loads((tmp_path / "panoptic.json").read_text())
    assert [image["file_name"] for image in dataset["images"]] == ["d/a.jpg"]
    assert dataset["annotations"] == [
        {
            "image_id": 1,
            "file_name": "d/a.jpg.png",
            "segments_info": [
                {"id": 1, "category_id": 17, "area": 200, "bbox": [3, 2, 20, 10], "iscrowd": 0,
                 "score": 0.9},
                {"id": 300, "category_id": 187, "area": 1200, "bbox": [0, 20, 60, 20],
                 "iscrowd": 0},
            ],
        }
    ]  # fmt: skip
    kinds = [(c["id"], c["name"], c["isthing"]) for c in dataset["categories"]]
    assert kinds == [(1, "person", 1), (17, "cat", 1), (187, "sky", 0), (193, "grass", 0)]
    assert (tmp_path / "panoptic" / dataset["annotations"][0]["file_name"]).is_file()


def test_panoptic_ids_of_things_and_stuff_do_not_meet(tmp_path: Path) -> None:
    categories = Categories(("person", "cat"), stuff_names=("sky", "grass"))
    build(tmp_path, ("a.jpg", panoptic()), categories=categories)
    dataset = json.loads((tmp_path / "panoptic.json").read_text())
    assert [category["id"] for category in dataset["categories"]] == [1, 2, 3, 4]
    segments = dataset["annotations"][0]["segments_info"]
    assert [segment["category_id"] for segment in segments] == [2, 3]


def test_only_panoptic_models_get_a_panoptic_file(tmp_path: Path) -> None:
    build(tmp_path, ("a.jpg", predictions()))
    assert not (tmp_path / "panoptic.json").exists()


@pytest.mark.parametrize("content", [None, b"", b"no PNG"], ids=["gone", "empty", "broken"])
def test_a_label_map_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    build(tmp_path, ("a.jpg", panoptic()))
    png = tmp_path / "panoptic/a.jpg.png"
    assert cv2.imread(str(png)) is not None
    png.unlink() if content is None else png.write_bytes(content)
    with pytest.raises(OutputError, match=r"a\.jpg\.png"):
        CocoJson(tmp_path).build(tmp_path / "predictions.jsonl", CATEGORIES)


def test_low_scores_can_be_left_to_the_run(tmp_path: Path) -> None:
    scores = np.float32([0.9, 0.7, np.nan, 0.2])
    p = predictions(4).replace(scores=scores)
    journal = write_journal(tmp_path, [Result(Frame(np.zeros((*SIZE, 3), np.uint8), "a.jpg"), p)])
    for min_score, expected in ((0, [0.9, 0.7, 0.2]), (0.7, [0.9, 0.7]), (1, [])):
        CocoJson(tmp_path, min_score=min_score).build(journal, CATEGORIES)
        dataset = json.loads((tmp_path / "coco.json").read_text("ascii"))
        assert [a["score"] for a in dataset["annotations"]] == expected
        assert [a["id"] for a in dataset["annotations"]] == list(range(1, len(expected) + 1))
        results = json.loads((tmp_path / "coco_results.json").read_text("ascii"))
        assert [r["score"] for r in results] == expected
        assert len(dataset["images"]) == 1
    for wrong in (-0.1, 1.5, True, "x"):
        with pytest.raises(ConfigError, match="min_score: expected a number from 0 to 1"):
            CocoJson(tmp_path, min_score=wrong)  # type: ignore[arg-type]
