"""The generated scenes of examples/shapes, and the judge of runs on them."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

SHAPES = Path(__file__).parents[2] / "examples" / "shapes"
SCENES = 40


@pytest.fixture(scope="module")
def scenes() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SHAPES))
        yield importlib.import_module("scenes")


def test_a_scene_follows_from_seed_and_index(scenes: ModuleType) -> None:
    image, annotations = scenes.generate(3, 5)
    scenes.generate(3, 6)
    again, annotations_again = scenes.generate(3, 5)
    assert np.array_equal(image, again)
    for one, other in zip(annotations, annotations_again, strict=True):
        assert one.class_name == other.class_name
        assert np.array_equal(one.mask, other.mask)
    assert not np.array_equal(image[:160, :160], scenes.generate(4, 5)[0][:160, :160])
    assert not np.array_equal(image[:160, :160], scenes.generate(3, 6)[0][:160, :160])


@pytest.mark.parametrize("index", range(SCENES))
def test_annotations_are_fair(scenes: ModuleType, index: int) -> None:
    image, annotations = scenes.generate(3, index)
    assert image.dtype == np.uint8
    assert all(160 <= side <= 400 for side in image.shape[:2])
    assert 1 <= len(annotations) <= 8
    assert np.sum([shape.mask for shape in annotations], axis=0).max() == 1  # none shared
    for shape in annotations:
        assert shape.mask.shape == image.shape[:2]
        assert shape.mask.dtype == bool
        assert 0.6 <= shape.visible <= 1
        x1, y1, x2, y2 = shape.box.astype(int)
        assert shape.mask[y1:y2, x1:x2].sum() == shape.mask.sum() > 0
        for side in (shape.mask[y1, :], shape.mask[y2 - 1, :], shape.mask[:, x1]):
            assert side.any()


def test_every_class_appears(scenes: ModuleType) -> None:
    found = [shape.class_name for index in range(SCENES) for shape in scenes.generate(3, index)[1]]
    assert all(found.count(name) > SCENES / 4 for name in scenes.CLASS_NAMES)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_pycocotools_reads_the_annotations(scenes: ModuleType, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    truth = COCO(str(scenes.write(3, 4, tmp_path)))
    names = [category["name"] for category in truth.loadCats([1, 2, 3])]
    assert names == ["circle", "square", "triangle"]
    for index, (image_id, entry) in enumerate(sorted(truth.imgs.items())):
        image, annotations = scenes.generate(3, index)
        assert np.array_equal(cv2.imread(str(tmp_path / entry["file_name"])), image)
        records = truth.loadAnns(truth.getAnnIds(image_id))
        for record, shape in zip(records, annotations, strict=True):
            assert names[record["category_id"] - 1] == shape.class_name
            assert np.array_equal(truth.annToMask(record), shape.mask)
            assert record["bbox"][2:] == (shape.box[2:] - shape.box[:2]).tolist()


def test_it_prints_the_average_precision(tmp_path: Path) -> None:
    command = [sys.executable, str(SHAPES / "evaluate.py"), "--seed", "3", "--scenes", "4"]
    done = subprocess.run([*command, "runnable=fake"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["seed", "scenes", "box_ap", "box_ap50", "mask_ap", "mask_ap50"]
    assert (found["seed"], found["scenes"]) == (3, 4)
    assert 0 <= found["box_ap"] <= found["box_ap50"] < 50  # of boxes at random places
    assert list(tmp_path.iterdir()) == []
