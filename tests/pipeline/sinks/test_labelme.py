from __future__ import annotations

import base64
import json
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervision
from shaped import CATEGORIES, NAMES, ODD_ASSETS, POSE, SIZE, image_asset, pose, shaped, write_to

from pipeline.records import Categories
from pipeline.sinks.labelme import Labelme


def write(
    folder: Path, *names: str, p: Any = None, categories: Categories = CATEGORIES, **options: Any
) -> Path:
    sink = Labelme(folder / "labelme", **options)
    sink.check(categories)
    write_to(sink, *(image_asset(folder / "in", name) for name in names or ("x.jpg",)), p=p)
    return folder / "labelme"


def read(file: Path) -> dict[str, Any]:
    """Read a file with the conditions that labelme 5 and 6 put on it."""
    content: dict[str, Any] = json.loads(file.read_text("ascii"))
    assert {"version", "imageData", "imagePath", "shapes", "flags"} <= content.keys()
    image = cv2.imdecode(np.frombuffer((file.parent / content["imagePath"]).read_bytes(), "u1"), 1)
    assert (content["imageHeight"], content["imageWidth"]) == image.shape[:2]
    for shape in content["shapes"]:
        assert isinstance(shape["label"], str)
        assert shape["points"]
        assert all(len(point) == 2 for point in shape["points"])
        assert shape["flags"] == {}
        assert isinstance(shape["description"], str)
        assert isinstance(shape["group_id"], int)
        least = {"polygon": 3, "point": 1}.get(shape["shape_type"], 2)
        assert len(shape["points"]) >= least
        assert (shape["mask"] is not None) == (shape["shape_type"] == "mask")
    return content


def dense(shape: dict[str, Any]) -> np.ndarray:
    """Paste a mask as labelme does."""
    mask = np.zeros(SIZE, bool)
    (x1, y1), (x2, y2) = shape["points"]
    png = np.frombuffer(base64.b64decode(shape["mask"]), np.uint8)
    mask[y1 : y2 + 1, x1 : x2 + 1] = cv2.imdecode(png, cv2.IMREAD_UNCHANGED) > 0
    return mask


def test_masks(tmp_path: Path) -> None:
    content = read(write(tmp_path) / "x.jpg.json")
    assert content["imagePath"] == "x.jpg.jpg"
    shapes = content["shapes"]
    assert [each["shape_type"] for each in shapes] == ["mask", "mask", "rectangle", "mask"]
    assert [each["label"] for each in shapes] == [NAMES[i] for i in (0, 1, 1, 0)]
    assert shapes[0]["description"] == "score=0.9 track_id=7"
    assert (shapes[0]["score"], shapes[0]["track_id"]) == (0.9, 7)
    masks = shaped().masks
    assert masks is not None
    for i in (0, 1, 3):
        assert np.array_equal(dense(shapes[i]), masks.dense()[i])
    assert shapes[2]["points"] == [[1.5, 2.25], [7.0, 9.0]]


def test_labelme_reads_it(tmp_path: Path) -> None:
    warnings.simplefilter("ignore")
    pytest.importorskip("labelme")
    from labelme import utils
    from labelme._label_file import LabelFile

    folder = write(tmp_path, "d/x.jpg", *ODD_ASSETS)
    masks = shaped().masks
    assert masks is not None
    for name in ("d/x.jpg", *ODD_ASSETS):
        file = LabelFile(str(folder / f"{name}.json"))
        assert file.image_data == (folder / f"{name}.jpg").read_bytes()
        assert [shape["label"] for shape in file.shapes] == [NAMES[i] for i in (0, 1, 1, 0)]
        assert file.shapes[0]["other_data"] == {"score": 0.9, "track_id": 7}
        for i in (0, 1, 3):
            ids = {name: k for k, name in enumerate(("_background_", *NAMES))}
            only = [file.shapes[i]]
            found, _ = utils.shapes_to_label((*SIZE, 3), only, ids)
            assert np.array_equal(found > 0, masks.dense()[i])
    for shapes in ("polygon", "box"):
        file = LabelFile(str(write(tmp_path / shapes, shapes=shapes) / "x.jpg.json"))
        assert len(file.shapes) >= 4
    file = LabelFile(str(write(tmp_path / "p", p=pose(), categories=POSE) / "x.jpg.json"))
    assert [shape["shape_type"] for shape in file.shapes] == ["rectangle", "point"]


def test_supervision_reads_the_polygons(tmp_path: Path) -> None:
    folder = write(tmp_path, shapes="polygon")
    shapes = read(folder / "x.jpg.json")["shapes"]
    assert [each["group_id"] for each in shapes] == [1, 1, 2, 2, 3, 4]
    dataset = supervision.DetectionDataset.from_labelme(str(folder), str(folder), force_masks=True)
    (path,) = dataset.image_paths
    detections = dataset.annotations[path]
    assert len(detections) == 4  # parts of a group are joined
    np.testing.assert_allclose(detections.xyxy[0], [3, 2, 60, 40])
    masks = shaped().masks
    assert masks is not None
    for i in (0, 3):
        assert detections.mask[i][masks.dense()[i]].all()


def test_boxes_and_keypoints(tmp_path: Path) -> None:
    shapes = read(write(tmp_path, shapes="box") / "x.jpg.json")["shapes"]
    assert {each["shape_type"] for each in shapes} == {"rectangle"}
    box, point = read(write(tmp_path / "p", p=pose(), categories=POSE) / "x.jpg.json")["shapes"]
    assert (point["label"], point["points"]) == ("nose", [[10.5, 20.25]])
    assert point["group_id"] == box["group_id"]


def test_no_instances_and_the_name_of_the_user_s_image(tmp_path: Path) -> None:
    folder = write(tmp_path, "d/x.jpg", p=shaped()[:0], images="none")
    file = folder / "d/x.jpg.json"
    file.rename(tmp_path / "in/d/x.jpg.json")
    assert read(tmp_path / "in/d/x.jpg.json")["shapes"] == []


@pytest.mark.parametrize("name", ODD_ASSETS)
def test_odd_names(tmp_path: Path, name: str) -> None:
    read(write(tmp_path, name) / f"{name}.json")
