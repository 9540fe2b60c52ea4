from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import supervision
from shaped import CATEGORIES, NAMES, ODD_ASSETS, image_asset, shaped, write_to

from pipeline.sinks.voc import Voc


def write(folder: Path, *names: str, p: Any = None, **options: Any) -> Path:
    sink = Voc(folder / "voc", **options)
    sink.check(CATEGORIES)
    write_to(sink, *(image_asset(folder / "in", name) for name in names or ("x.jpg",)), p=p)
    return folder / "voc"


def parsed(voc: Path, name: str = "x.jpg") -> Any:
    from torchvision.datasets import VOCDetection

    root = ElementTree.parse(voc / f"Annotations/{name}.xml").getroot()
    return VOCDetection.parse_voc_xml(root)["annotation"]


def test_torchvision_parses_it(tmp_path: Path) -> None:
    annotation = parsed(write(tmp_path))
    assert annotation["filename"] == "x.jpg.jpg"
    assert annotation["size"] == {"width": "60", "height": "40", "depth": "3"}
    assert [each["name"] for each in annotation["object"]] == [NAMES[i] for i in (0, 1, 1, 0)]
    boxes = [each["bndbox"] for each in annotation["object"]]
    assert boxes[0] == {"xmin": "4", "ymin": "3", "xmax": "60", "ymax": "40"}  # from 1
    assert boxes[3] == {"xmin": "1", "ymin": "1", "xmax": "60", "ymax": "40"}
    assert [each["score"] for each in annotation["object"]] == ["0.9", "0.8", "0.7", "0.6"]
    assert annotation["object"][0]["track_id"] == "7"


def test_torchvision_s_dataset_finds_it(tmp_path: Path) -> None:
    from torchvision.datasets import VOCDetection

    voc = write(tmp_path, "x.jpg", "y.jpg")
    (tmp_path / "VOCdevkit").mkdir()
    voc.rename(tmp_path / "VOCdevkit/VOC2012")
    sets = tmp_path / "VOCdevkit/VOC2012/ImageSets/Main"
    sets.mkdir(parents=True)
    names = sorted(path.stem for path in (sets.parents[1] / "Annotations").glob("*.xml"))
    (sets / "train.txt").write_text("\n".join(names))
    (tmp_path / "in").rename(tmp_path / "VOCdevkit/in")  # the links are relative
    dataset = VOCDetection(str(tmp_path), image_set="train")
    image, target = dataset[1]
    assert image.size == (60, 40)
    assert len(target["annotation"]["object"]) == 4


def test_supervision_reads_whole_pixels(tmp_path: Path) -> None:
    voc = write(tmp_path)
    dataset = supervision.DetectionDataset.from_pascal_voc(
        str(voc / "JPEGImages"), str(voc / "Annotations")
    )
    (path,) = dataset.image_paths
    detections = dataset.annotations[path]
    names = [dataset.classes[i] for i in detections.class_id]
    assert names == [NAMES[i] for i in (0, 1, 1, 0)]
    np.testing.assert_allclose(detections.xyxy, np.rint(shaped().boxes))


def test_boxes_stay_inside_the_image_and_have_pixels(tmp_path: Path) -> None:
    boxes = np.float32(
        [[-3, -2, 70, 45], [5.1, 5.1, 5.2, 5.2], [60, 40, 60, 40], [1, np.nan, 2, 2]]
    )
    objects = parsed(write(tmp_path, p=shaped(boxes=boxes)))["object"]
    values = [[int(value) for value in each["bndbox"].values()] for each in objects]
    assert values == [[1, 1, 60, 40], [6, 6, 6, 6], [60, 40, 60, 40]]


def test_odd_names_and_no_instances(tmp_path: Path) -> None:
    voc = write(tmp_path, *ODD_ASSETS, p=shaped()[:0])
    for name in ODD_ASSETS:
        annotation = parsed(voc, name)
        assert annotation["object"] == []
        assert annotation["filename"].endswith(".jpg.jpg")
    assert parsed(voc, ODD_ASSETS[5])["filename"] == r"bell\x07 tab\t line\nend.jpg.jpg"
    alone = write(tmp_path / "alone", "d/x.jpg", images="none")
    assert parsed(alone, "d/x.jpg")["filename"] == "x.jpg"
