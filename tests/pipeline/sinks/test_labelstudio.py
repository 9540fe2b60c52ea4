from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import numpy as np
import pytest
from shaped import CATEGORIES, NAMES, ODD_ASSETS, POSE, SIZE, journal, pose, shaped

from pipeline.errors import ConfigError, OutputError
from pipeline.masks import InstanceMasks
from pipeline.records import Categories
from pipeline.sinks.annotations.run_lengths import label_studio_rle
from pipeline.sinks.labelstudio import LabelStudio


def build(file: Path, categories: Categories = CATEGORIES, **options: Any) -> list[Any]:
    LabelStudio(file.parent, **options).build(file, categories)
    tasks: list[Any] = json.loads((file.parent / "labelstudio.json").read_text("ascii"))
    return tasks


def decoded(rle: list[int]) -> np.ndarray:
    """Read the format as its description says, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(n: int) -> int:
        nonlocal at
        at += n
        return int(bits[at - n : at], 2)

    total, width = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(width)] * length if is_run else [read(width) for _ in range(length)]
    assert len(bits) - at <= 8
    return np.array(values)


MASKS = {
    "small": np.eye(5, 9, dtype=bool),
    "full": np.ones((3, 4), bool),
    "first pixel": np.pad(np.ones((1, 1), bool), ((0, 6), (0, 6))),
    "last pixel": np.pad(np.ones((1, 1), bool), ((6, 0), (6, 0))),
    "runs over 65,536": np.pad(np.ones((200, 300), bool), 100),
    "a run of 65,536": np.ones((128, 128), bool),
    "noise": np.random.default_rng(0).random((31, 47)) < 0.5,
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_the_encoding(mask: np.ndarray) -> None:
    image = decoded(label_studio_rle(InstanceMasks.from_dense(mask[None])))
    assert np.array_equal(image, np.repeat(255 * mask.ravel(), 4))


def test_the_sdk_encodes_the_same() -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk")
    for mask in MASKS.values():
        rle = label_studio_rle(InstanceMasks.from_dense(mask[None]))
        image = np.repeat(255 * mask.astype(np.uint8).ravel(), 4)
        assert np.array_equal(brush.decode_rle(rle), image)
        assert rle == brush.encode_rle(image)


def test_masks(tmp_path: Path) -> None:
    (task,) = build(journal(tmp_path))
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "d2run"
    assert prediction["score"] == pytest.approx(0.75)
    kinds = [(each["type"], each["from_name"], each["score"]) for each in prediction["result"]]
    assert kinds == [
        ("brushlabels", "mask", 0.9), ("brushlabels", "mask", 0.8),
        ("rectanglelabels", "box", 0.7), ("brushlabels", "mask", 0.6),
    ]  # fmt: skip
    masks = shaped().masks
    assert masks is not None
    for i, dense in enumerate(masks.dense()):
        value = prediction["result"][i]["value"]
        if i != 2:  # which has no pixels
            assert value["format"] == "rle"
            image = decoded(value["rle"]).reshape(*SIZE, 4)
            assert np.array_equal(image[..., 3] > 0, dense)
    box = prediction["result"][2]
    assert box == {
        "id": "3", "to_name": "image", "from_name": "box", "type": "rectanglelabels", "score": 0.7,
        "value": {
            "x": 2.5, "y": 5.625, "width": pytest.approx(100 * 5.5 / 60),
            "height": pytest.approx(100 * 6.75 / 40), "rotation": 0, "rectanglelabels": [NAMES[1]],
        },
        "original_width": 60, "original_height": 40, "image_rotation": 0,
    }  # fmt: skip


def test_polygons_and_boxes(tmp_path: Path) -> None:
    (task,) = build(journal(tmp_path), shapes="polygon")
    results = task["predictions"][0]["result"]
    ids = ["1", "1-2", "2", "2-2", "3", "4"]  # two parts; an island in a hole
    assert [each["id"] for each in results] == ids
    whole = {(0, 0), (100, 0), (100, 100), (0, 100)}
    assert set(map(tuple, results[-1]["value"]["points"])) == whole
    (task,) = build(journal(tmp_path / "b"), shapes="box")
    assert {each["type"] for each in task["predictions"][0]["result"]} == {"rectanglelabels"}


def test_keypoints(tmp_path: Path) -> None:
    (task,) = build(journal(tmp_path, p=pose()), POSE)
    box, point = task["predictions"][0]["result"]
    assert box["type"] == "rectanglelabels"
    assert point["parentID"] == box["id"] != point["id"]
    value = {"x": 17.5, "y": 50.625, "width": 0.5, "keypointlabels": ["nose"]}
    assert (point["value"], point["score"]) == (value, 0.9)


@pytest.mark.parametrize("shapes", ["mask", "polygon", "box"])
def test_the_interface_has_every_tag_and_label(tmp_path: Path, shapes: str) -> None:
    (task,) = build(journal(tmp_path), shapes=shapes)
    interface = ElementTree.parse(tmp_path / "labelstudio.xml").getroot()
    for result in task["predictions"][0]["result"]:
        tag = interface.find(f"./*[@name='{result['from_name']}']")
        assert tag is not None
        assert tag.tag.lower() == result["type"]
        assert tag.get("toName") == result["to_name"] == interface[0].get("name")
        assert [label.get("value") for label in tag] == list(NAMES)
    build(journal(tmp_path / "pose", p=pose()), POSE, shapes=shapes)
    interface = ElementTree.parse(tmp_path / "pose/labelstudio.xml").getroot()
    assert [each.get("value") for each in interface.iterfind("KeyPointLabels/Label")] == [
        "nose", "left <eye>",
    ]  # fmt: skip


def test_the_sdk_accepts_the_predictions(tmp_path: Path) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    for p, categories in ((shaped(), CATEGORIES), (pose(), POSE)):
        for shapes in ("mask", "polygon", "box"):
            (task,) = build(journal(tmp_path, p=p), categories, shapes=shapes)
            config = interface.LabelInterface((tmp_path / "labelstudio.xml").read_text("utf-8"))
            config.validate()
            assert config.validate_prediction(task["predictions"][0], return_errors=True) == []
            (tmp_path / "predictions.jsonl").unlink()


@pytest.mark.parametrize("asset", ODD_ASSETS)
def test_odd_names(tmp_path: Path, asset: str) -> None:
    (task,) = build(journal(tmp_path, asset), image_url="s3://bucket/")
    url = task["data"]["image"]
    assert url.startswith("s3://bucket/")
    assert unquote_to_bytes(url.removeprefix("s3://bucket/")) == os.fsencode(asset)
    assert " " not in url


def test_frames_of_a_video_and_empty_frames(tmp_path: Path) -> None:
    (task,) = build(journal(tmp_path, "v.mp4", p=shaped()[:0], time_s=0.12))
    assert task == {
        "data": {
            "image": "/data/local-files/?d=v.mp4/000003.jpg", "asset": "v.mp4/000003.jpg",
            "frame": 3, "time_s": 0.12,
        },
        "predictions": [{"model_version": "d2run", "result": []}],
    }  # fmt: skip


def test_what_is_left_out(tmp_path: Path) -> None:
    boxes = shaped().boxes.copy()
    boxes[0] = np.nan
    (task,) = build(journal(tmp_path, p=shaped(boxes=boxes)), min_score=0.7)
    assert [each["score"] for each in task["predictions"][0]["result"]] == [0.8, 0.7]


def test_an_empty_run_and_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    file = tmp_path / "empty/predictions.jsonl"
    file.touch()
    assert build(file) == []
    for name in "ab":
        build(journal(tmp_path / name, *ODD_ASSETS))
    for name in LabelStudio.outputs:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    file = journal(tmp_path, p=shaped()[2:3])
    file.write_text(1000 * file.read_text())
    tracemalloc.start()
    LabelStudio(tmp_path).build(file, CATEGORIES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert (tmp_path / "labelstudio.json").read_bytes().count(b'"data"') == 1000


def test_a_torn_line_leaves_the_old_file(tmp_path: Path) -> None:
    file = journal(tmp_path)
    build(file)
    before = (tmp_path / "labelstudio.json").read_bytes()
    with file.open("a") as lines:
        lines.write('{"asset": ')
    with pytest.raises(OutputError, match="line 2"):
        build(file)
    assert (tmp_path / "labelstudio.json").read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        {"min_score": -1},
        {"shapes": "rle"},
        {"tolerance_px": -1},
        {"image_url": 7},
        {"model_version": None},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        LabelStudio("anywhere", **options)


def test_a_model_without_instances() -> None:
    with pytest.raises(ConfigError, match="semantic"):
        LabelStudio("anywhere").check(Categories(stuff_names=("sky",)))
    LabelStudio("anywhere").check(CATEGORIES)
