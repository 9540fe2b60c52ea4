from __future__ import annotations

import json
import tracemalloc
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from shaped import CATEGORIES, NAMES, ODD_ASSETS, POSE, SIZE, journal, pose, shaped

from pipeline.errors import ConfigError, OutputError
from pipeline.records import Categories
from pipeline.sinks.annotations.run_lengths import cvat_rle
from pipeline.sinks.cvat import Cvat


def build(file: Path, categories: Categories = CATEGORIES, **options: Any) -> list[Any]:
    """Return the images of the XML."""
    Cvat(file.parent, **options).build(file, categories)
    return ElementTree.parse(file.parent / "cvat.xml").getroot().findall("image")


def points(mask: ElementTree.Element) -> list[int]:
    """What CVAT's importer makes of a mask's attributes."""
    rle = [int(run) for run in mask.attrib["rle"].split(",")]
    left, top, width, height = (int(mask.attrib[k]) for k in ("left", "top", "width", "height"))
    return [*rle, left, top, left + width - 1, top + height - 1]


def test_masks_are_decoded_by_cvat_s_sdk(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its HTTP client, which nothing here uses
        from cvat_sdk.masks import decode_mask, encode_mask

    (image,) = build(journal(tmp_path))
    assert [shape.tag for shape in image] == ["mask", "mask", "box", "mask"]
    masks = shaped().masks
    assert masks is not None
    for shape, dense in zip(image, masks.dense(), strict=True):
        if shape.tag == "mask":
            decoded = decode_mask(points(shape), image_width=SIZE[1], image_height=SIZE[0])
            assert np.array_equal(decoded, dense)
            assert points(shape) == encode_mask(dense)


def test_runs_start_with_background() -> None:
    assert cvat_rle(np.array([[True, False], [True, True]])) == [0, 1, 1, 2]
    assert cvat_rle(np.array([[False, False], [True, False]])) == [2, 1, 1]


def test_shapes_have_labels_scores_and_groups(tmp_path: Path) -> None:
    (image,) = build(journal(tmp_path), shapes="polygon")
    assert image.attrib == {"id": "0", "name": "a.jpg", "width": "60", "height": "40"}
    labels = [shape.get("label") for shape in image]
    assert labels == [NAMES[0], NAMES[0], NAMES[1], NAMES[1], NAMES[1], NAMES[0]]
    assert [shape.get("group_id") for shape in image] == ["1", "1", "2", "2", "3", "4"]
    assert [shape.get("source") for shape in image] == ["auto"] * 6
    attributes = {each.get("name"): each.text for each in image[0]}
    assert attributes == {"score": "0.9", "track_id": "7"}
    assert image[5].get("points") == "0,0;0,40;60,40;60,0"
    box = image[4].attrib
    assert [box[key] for key in ("xtl", "ytl", "xbr", "ybr")] == ["1.5", "2.25", "7", "9"]
    (image,) = build(journal(tmp_path / "b"), shapes="box")
    assert {shape.tag for shape in image} == {"box"}


def test_keypoints(tmp_path: Path) -> None:
    (image,) = build(journal(tmp_path, p=pose()), POSE)
    assert [(shape.tag, shape.get("group_id")) for shape in image] == [
        ("box", "1"),
        ("points", "1"),
    ]
    assert image[1].get("points") == "10.5,20.25"


def test_datumaro_reads_the_boxes_and_polygons(tmp_path: Path) -> None:
    warnings.simplefilter("ignore")
    datumaro = pytest.importorskip("datumaro")
    for shapes, kind in (("polygon", "polygon"), ("box", "bbox")):
        folder = tmp_path / shapes
        for image in build(journal(folder, *ODD_ASSETS), shapes=shapes):
            path = folder / "images" / image.attrib["name"]  # it looks for them
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (folder / "cvat.xml").rename(folder / "alone.xml")
        dataset = datumaro.Dataset.import_from(str(folder / "alone.xml"), "cvat")
        assert len(dataset) == len(ODD_ASSETS)
        item = next(iter(dataset))
        label = dataset.categories()[datumaro.AnnotationType.label][item.annotations[0].label]
        assert label.name == NAMES[0]
        assert item.annotations[0].type.name == kind
        assert float(item.annotations[0].attributes["score"]) == 0.9


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
def test_the_coco_file(tmp_path: Path) -> None:
    build(journal(tmp_path))
    coco = COCO(str(tmp_path / "cvat_coco.json"))
    assert coco.getCatIds() == [1, 2]  # the dataset's own start at 0
    assert [coco.cats[i]["name"] for i in (1, 2)] == list(NAMES)
    masks = shaped().masks
    assert masks is not None
    for annotation, dense in zip(coco.anns.values(), masks.dense(), strict=True):
        assert np.array_equal(coco.annToMask(annotation), dense)
        assert coco_mask.area(annotation["segmentation"]) == dense.sum()
    build(journal(tmp_path / "b"), shapes="polygon", min_score=0.9)
    dataset = json.loads((tmp_path / "b/cvat_coco.json").read_text())
    assert [len(each["segmentation"]) for each in dataset["annotations"]] == [2]


def test_odd_names(tmp_path: Path) -> None:
    names = [image.get("name") for image in build(journal(tmp_path, *ODD_ASSETS))]
    assert names == [
        *ODD_ASSETS[:3], r"d/caf\xe9.jpg", ODD_ASSETS[4], r"d/bell\x07 tab\t line\nend.jpg",
    ]  # fmt: skip


def test_frames_of_a_video_are_found_by_number(tmp_path: Path) -> None:
    (image,) = build(journal(tmp_path, "v.mp4", p=shaped()[:0], time_s=0.12))
    assert (image.get("id"), image.get("name")) == ("3", "v.mp4/000003.jpg")
    assert len(image) == 0
    dataset = json.loads((tmp_path / "cvat_coco.json").read_text())
    assert dataset["images"][0]["file_name"] == "v.mp4/000003.jpg"


def test_what_is_left_out(tmp_path: Path) -> None:
    boxes = shaped().boxes.copy()
    boxes[0] = np.nan
    (image,) = build(journal(tmp_path, p=shaped(boxes=boxes)), min_score=0.7)
    assert [shape[0].text for shape in image] == ["0.8", "0.7"]


def test_an_empty_run_and_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/predictions.jsonl").touch()
    assert build(tmp_path / "empty/predictions.jsonl") == []
    for name in "ab":
        build(journal(tmp_path / name, *ODD_ASSETS))
    for name in Cvat.outputs:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    file = journal(tmp_path, p=shaped()[2:3])
    file.write_text(1000 * file.read_text())
    tracemalloc.start()
    Cvat(tmp_path).build(file, CATEGORIES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert (tmp_path / "cvat.xml").read_bytes().count(b"<image ") == 1000


def test_a_torn_line_leaves_the_old_files(tmp_path: Path) -> None:
    file = journal(tmp_path)
    build(file)
    before = [(tmp_path / name).read_bytes() for name in Cvat.outputs]
    with file.open("a") as lines:
        lines.write('{"asset": ')
    with pytest.raises(OutputError, match="line 2"):
        build(file)
    assert [(tmp_path / name).read_bytes() for name in Cvat.outputs] == before


@pytest.mark.parametrize("options", [{"min_score": 2}, {"shapes": "rle"}, {"tolerance_px": "1"}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Cvat("anywhere", **options)


def test_a_model_without_instances() -> None:
    with pytest.raises(ConfigError, match="semantic"):
        Cvat("anywhere").check(Categories(stuff_names=("sky",)))
