from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision
import yaml
from shaped import CATEGORIES, NAMES, POSE, SIZE, image_asset, pose, shaped, write_to

from pipeline.records import Categories
from pipeline.sinks.yolo import Yolo


def write(
    folder: Path, *assets: Any, p: Any = None, categories: Categories = CATEGORIES, **options: Any
) -> Path:
    sink = Yolo(folder / "yolo", **options)
    sink.check(categories)
    write_to(sink, *assets or [image_asset(folder / "in", "x.jpg")], p=p)
    return folder / "yolo"


def lines(yolo: Path, name: str = "x.jpg") -> list[list[float]]:
    text = (yolo / f"labels/{name}.txt").read_text("ascii")
    return [[float(value) for value in line.split()] for line in text.splitlines()]


def read(yolo: Path, **options: Any) -> tuple[Any, Any]:
    """Let supervision read the dataset; return it and the detections of its only image."""
    dataset = supervision.DetectionDataset.from_yolo(
        str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml"), **options
    )
    assert dataset.classes == list(NAMES)
    (path,) = dataset.image_paths
    return dataset, dataset.annotations[path]


def test_supervision_reads_the_polygons(tmp_path: Path) -> None:
    yolo = write(tmp_path)
    dataset, detections = read(yolo, force_masks=True)
    assert len(dataset) == 1
    assert detections.class_id.tolist() == [0, 1, 1, 0]
    masks = shaped().masks
    assert masks is not None
    dense = masks.dense()
    for i in (0, 1, 3):
        # OpenCV fills a polygon with its edge: one pixel more at the right and the bottom
        assert detections.mask[i][dense[i]].all()
        assert detections.mask[i].sum() < dense[i].sum() + 70
    assert not detections.mask[1][7:8, 27:33].any()  # the hole
    assert detections.mask[0][:20].sum() < 80  # the parts, with a bridge of one pixel
    first = np.array(lines(yolo)[3][1:]).reshape(-1, 2)
    assert first.tolist() == [[0, 0], [0, 1], [1, 1], [1, 0]]  # of the whole frame
    assert len(lines(yolo)[2]) == 9  # without pixels: its box as a polygon


def test_supervision_reads_the_boxes(tmp_path: Path) -> None:
    _, detections = read(write(tmp_path, polygons=False))
    np.testing.assert_allclose(detections.xyxy, shaped().boxes, atol=1e-3)
    _, detections = read(write(tmp_path / "no masks", p=shaped(masks=None)))
    np.testing.assert_allclose(detections.xyxy, shaped().boxes, atol=1e-3)


def test_keypoints(tmp_path: Path) -> None:
    yolo = write(tmp_path, p=pose(), categories=POSE)
    (line,) = lines(yolo)
    expected = [0, 15 / 60, 21 / 40, 20 / 60, 30 / 40, 10.5 / 60, 20.25 / 40, 2, 0, 0, 0]
    np.testing.assert_allclose(line, expected, atol=1e-6)
    assert yaml.safe_load((yolo / "data.yaml").read_text())["kpt_shape"] == [2, 3]


def test_no_instances_are_an_empty_file(tmp_path: Path) -> None:
    yolo = write(tmp_path, p=shaped()[:0])
    assert (yolo / "labels/x.jpg.txt").read_bytes() == b""
    _, detections = read(yolo)
    assert len(detections) == 0


def test_values_stay_inside_the_image(tmp_path: Path) -> None:
    boxes = np.float32([[-3, -2, 70, 45], [1, np.nan, 2, 2], [59, 39, 60, 40], [0, 0, 1, 1]])
    yolo = write(tmp_path, p=shaped(boxes=boxes, masks=None))
    assert len(lines(yolo)) == 3
    assert all(0 <= value <= 1 for line in lines(yolo) for value in line[1:])


def test_a_tolerance_leaves_few_corners(tmp_path: Path) -> None:
    size = (200, 200)
    y, x = np.indices(size)
    disk = ((x - 100) ** 2 + (y - 100) ** 2 < 80**2)[None]
    from pipeline.masks import InstanceMasks
    from pipeline.testing import make_predictions

    p = make_predictions(1, size=size, masks=InstanceMasks.from_dense(disk))
    exact, simple = (
        lines(write(tmp_path / name, p=p, tolerance_px=tolerance))
        for name, tolerance in (("a", 0), ("b", 1.5))
    )
    assert len(simple[0]) < len(exact[0]) / 8


@pytest.mark.parametrize(
    ("p", "categories", "options"),
    [
        pytest.param(shaped(), CATEGORIES, {}, id="polygons"),
        pytest.param(shaped(), CATEGORIES, {"polygons": False}, id="boxes"),
        pytest.param(pose(), POSE, {}, id="keypoints"),
    ],
)
def test_ultralytics_reads_it(
    tmp_path: Path, p: Any, categories: Categories, options: dict[str, Any]
) -> None:
    warnings.simplefilter("ignore")
    data = pytest.importorskip("ultralytics.data")
    utils = pytest.importorskip("ultralytics.data.utils")
    assets = [image_asset(tmp_path / "in", name) for name in ("x.jpg", "d/x.png", "d/é 猫.jpg")]
    yolo = write(tmp_path, *assets, p=p, categories=categories, **options)
    info = utils.check_det_dataset(str(yolo / "data.yaml"), autodownload=False)
    assert list(info["names"].values()) == list(categories.thing_names)
    kinds = {"use_keypoints": True} if categories is POSE else {"use_segments": not options}
    task = "pose" if categories is POSE else "detect" if options else "segment"
    dataset = data.YOLODataset(info["train"], data=info, task=task, imgsz=64, augment=False)
    assert (dataset.use_keypoints, dataset.use_segments) == (
        kinds.get("use_keypoints", False), kinds.get("use_segments", False),
    )  # fmt: skip
    assert len(dataset.labels) == 3
    for label in dataset.labels:
        assert label["cls"].ravel().tolist() == p.classes.tolist()
        assert label["shape"] == SIZE
        if options or categories is POSE:
            x, y, w, h = (label["bboxes"] * np.tile(SIZE[::-1], 2)).T
            boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
            np.testing.assert_allclose(boxes, p.boxes, atol=1e-3)
        if categories is POSE:
            assert label["keypoints"][0, :, 2].tolist() == [2, 0]
