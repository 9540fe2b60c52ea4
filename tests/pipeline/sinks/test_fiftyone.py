from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journals import write_journal
from pycocotools.coco import COCO
from shaped import CATEGORIES, NAMES, ODD_ASSETS, SIZE, image_asset, journal, shaped

from pipeline.errors import ConfigError
from pipeline.records import Categories, Frame, Result
from pipeline.sinks.cvat import Cvat
from pipeline.sinks.fiftyone import Fiftyone
from pipeline.sinks.labelstudio import LabelStudio


def build(folder: Path, *assets: str, **options: Any) -> Path:
    for asset in assets:
        image_asset(folder / "in", asset)
    file = journal(folder / "run", *assets)
    options = {"images": str(folder / "in")} | options
    Fiftyone(folder / "run/fiftyone", **options).build(file, CATEGORIES)
    return folder / "run/fiftyone"


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
def test_pycocotools_reads_it_and_every_image_is_there(tmp_path: Path) -> None:
    dataset = build(tmp_path, *ODD_ASSETS)
    coco = COCO(str(dataset / "labels.json"))
    assert len(coco.imgs) == len(ODD_ASSETS)
    for image, asset in zip(coco.imgs.values(), ODD_ASSETS, strict=True):
        path = dataset / "data" / image["file_name"]
        assert path.is_symlink()
        assert not path.readlink().is_absolute()
        assert path.read_bytes() == (tmp_path / "in" / asset).read_bytes()
    masks = shaped().masks
    assert masks is not None
    for annotation, dense in zip(coco.imgToAnns[1], masks.dense(), strict=True):
        assert np.array_equal(coco.annToMask(annotation), dense)


def test_fiftyone_imports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings.simplefilter("ignore")
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "db"))
    coco = pytest.importorskip("fiftyone.utils.coco")
    dataset = build(tmp_path, *ODD_ASSETS)
    with coco.COCODetectionDatasetImporter(str(dataset), shuffle=False) as importer:
        samples = {Path(path): labels for path, _, labels in importer}
    assert len(samples) == len(ODD_ASSETS)
    assert all(path.is_file() for path in samples)
    masks = shaped().masks
    assert masks is not None
    found = samples[dataset / "data/plain.jpg"]["segmentations"].detections
    assert [each.label for each in found] == [NAMES[i] for i in (0, 1, 1, 0)]
    assert found[0].confidence == pytest.approx(0.9)
    assert np.array_equal(np.asarray(found[3].mask, bool), masks.dense()[3])
    x, y, width, height = found[1].bounding_box
    whole = np.array([x, y, width, height]) * np.tile(SIZE[::-1], 2)
    np.testing.assert_allclose(whole, [20, 1, 20, 19], atol=1e-3)
    assert np.array_equal(np.asarray(found[1].mask, bool), masks.dense()[1][1:20, 20:40])


def test_what_is_no_file_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image_asset(tmp_path / "in", "x.jpg")
    file = journal(tmp_path, "x.jpg", "gone.jpg")
    with caplog.at_level(logging.WARNING):
        Fiftyone(tmp_path / "fiftyone", images=str(tmp_path / "in")).build(file, CATEGORIES)
    assert "no image for 1 frames" in caplog.text
    assert [path.name for path in (tmp_path / "fiftyone/data").iterdir()] == ["x.jpg"]


def test_pages_and_frames_have_names_of_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for asset in ("p.tif", "v.mp4", "x.jpg"):
        image_asset(tmp_path / "in", asset)
    image, p = np.zeros((*SIZE, 3), np.uint8), shaped()
    frames = [Frame(image, "p.tif", 0), Frame(image, "p.tif", 1), Frame(image, "x.jpg", 0)]
    frames += [Frame(image, "v.mp4", i, time_s=i / 25) for i in range(2)]
    file = write_journal(tmp_path, [Result(frame, p) for frame in frames])
    with caplog.at_level(logging.WARNING):
        Fiftyone(tmp_path / "fiftyone", images=str(tmp_path / "in")).build(file, CATEGORIES)
    assert "no image for 4 frames" in caplog.text
    assert [path.name for path in (tmp_path / "fiftyone/data").iterdir()] == ["x.jpg"]
    Cvat(tmp_path).build(file, CATEGORIES)
    LabelStudio(tmp_path).build(file, CATEGORIES)
    names = ["p.tif/000000.jpg", "p.tif/000001.jpg", "x.jpg", "v.mp4/000000.jpg",
             "v.mp4/000001.jpg"]  # fmt: skip
    for listed in ("fiftyone/labels.json", "cvat_coco.json"):
        content = json.loads((tmp_path / listed).read_bytes())
        assert [each["file_name"] for each in content["images"]] == names
    tasks = json.loads((tmp_path / "labelstudio.json").read_bytes())
    assert [task["data"]["asset"] for task in tasks] == names


@pytest.mark.parametrize("images", [None, "some/*.jpg", ["a", "b"]])
def test_without_a_directory_of_images(tmp_path: Path, images: Any) -> None:
    dataset = build(tmp_path, "x.jpg", images=images, min_score=0.8)
    assert not (dataset / "data").exists()
    labels = json.loads((dataset / "labels.json").read_text("ascii"))
    assert [each["score"] for each in labels["annotations"]] == [0.9, 0.8]


def test_one_image_as_the_input(tmp_path: Path) -> None:
    dataset = build(tmp_path, "x.jpg", images=str(tmp_path / "in/x.jpg"))
    assert (dataset / "data/x.jpg").read_bytes()


def test_frames_of_a_video(tmp_path: Path) -> None:
    file = journal(tmp_path, "v.mp4", time_s=0.12)
    Fiftyone(tmp_path / "fiftyone").build(file, CATEGORIES)
    labels = json.loads((tmp_path / "fiftyone/labels.json").read_text("ascii"))
    assert labels["images"][0]["file_name"] == "v.mp4/000003.jpg"


@pytest.mark.parametrize("options", [{"min_score": 2}, {"images": 7}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Fiftyone("anywhere", **options)


def test_a_model_without_instances() -> None:
    with pytest.raises(ConfigError, match="semantic"):
        Fiftyone("anywhere").check(Categories(stuff_names=("sky",)))
