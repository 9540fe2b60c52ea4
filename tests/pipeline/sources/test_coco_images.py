"""The images of a COCO dataset: ids, order, other tools, and files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import ConfigError, DecodeError
from pipeline.records import Categories
from pipeline.sources import Several
from pipeline.sources.auto import auto
from pipeline.sources.coco_images import CocoImages

PNG = cv2.imencode(".png", np.zeros((2, 3, 3), np.uint8))[1].tobytes()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.png", "b.png", "sub/a.png", "images/0/c d.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(PNG + name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dataset(path: Path, *images: Any, **more: Any) -> str:
    entries = [
        image if isinstance(image, dict) else {"id": i, "file_name": image}
        for i, image in enumerate(images, 7)
    ]
    path.write_text(json.dumps({"images": entries, "annotations": [], **more}))
    return str(path)


def found(source: Any) -> dict[str, int | None]:
    return {asset.id: asset.image_id for asset in source}


def test_order_and_ids_are_those_of_the_file(here: Path) -> None:
    source = auto(dataset(here / "x.json", "sub/a.png", "b.png", "a.png"), root="data")
    assert type(source) is CocoImages
    source.check()
    assert list(found(source).items()) == [("sub/a.png", 7), ("b.png", 8), ("a.png", 9)]
    assert len(source) == 3
    assert next(iter(source)).path.read_bytes().endswith(b"sub/a.png")
    assert found(CocoImages(dataset(here / "data" / "x.json", "a.png"))) == {"a.png": 7}


@pytest.mark.parametrize(
    ("name", "asset_id"),
    [
        ("./a.png", "a.png"),
        ("sub//a.png", "sub/a.png"),
        ("sub/../b.png", "b.png"),
        ("sub\\a.png", "sub/a.png"),
        ("images\\0\\c d.png", "images/0/c d.png"),
        ("C:\\export\\sub\\a.png", "sub/a.png"),
        ("/data/local-files/?d=sub/a.png", "sub/a.png"),
        ("/data/local-files/?d=sub%2Fa.png", "sub/a.png"),
        ("http://host:8080/data/upload/images/0/c%20d.png", "images/0/c d.png"),
        ("../../label-studio/media/b.png", "b.png"),
        ("val2017/b.png", "b.png"),
    ],
)
def test_names_of_other_tools(here: Path, name: str, asset_id: str) -> None:
    (asset,) = CocoImages(dataset(here / "x.json", name), root="data")
    assert asset.id == asset_id
    assert next(asset.frames()).size == (2, 3)


def test_only_directories_that_all_names_have_are_removed(here: Path) -> None:
    names = ("set/train/a.png", "set/val/a.png", "set/b.png")
    source = CocoImages(dataset(here / "x.json", *names), root="data")
    paths = {asset.image_id: str(asset.path) for asset in source}
    assert paths[9] == str(here / "data" / "b.png")
    assert [Path(paths[i]).exists() for i in (7, 8)] == [False, False]


def test_an_absolute_name(here: Path) -> None:
    (asset,) = CocoImages(dataset(here / "x.json", str(here / "data" / "a.png")), root="data")
    assert (asset.id, next(asset.frames()).size) == ("a.png", (2, 3))


def test_a_missing_file_is_an_asset_that_fails(here: Path) -> None:
    source = CocoImages(dataset(here / "x.json", "gone.png", "../../gone.png", "a.png"), "data")
    gone, outside, _ = source
    assert (gone.id, gone.image_id, outside.image_id) == ("gone.png", 7, 8)
    assert ".." not in outside.id
    with pytest.raises(DecodeError, match="no such file"):
        next(gone.frames())


def test_duplicates_are_skipped_with_a_reason(here: Path) -> None:
    source = CocoImages(
        dataset(
            here / "x.json",
            {"id": 1, "file_name": "a.png"},
            {"id": 1, "file_name": "./a.png"},
            {"id": 2, "file_name": "a.png"},
            {"id": 1, "file_name": "b.png"},
        ),
        "data",
    )
    assert found(source) == {"a.png": 1}
    assert [(each.path, each.reason, each.lost) for each in source.skipped()] == [
        ("a.png", "listed twice", False),
        ("a.png", "listed twice", False),
        ("b.png", "its image id 1 belongs to 'a.png'", True),
    ]


def test_ids_that_are_text_are_converted(here: Path) -> None:
    images = [{"id": "0012", "file_name": "a.png"}, {"id": "3", "file_name": "b.png"}]
    assert found(CocoImages(dataset(here / "x.json", *images), "data")) == {"a.png": 12, "b.png": 3}


@pytest.mark.parametrize("odd", ["x1", None, 1.5, -1, True, 1 << 60, "²"])
def test_ids_that_are_no_whole_numbers_are_replaced(here: Path, odd: Any) -> None:
    images = [{"id": 5, "file_name": "a.png"}, {"id": odd, "file_name": "b.png"}]
    source = CocoImages(dataset(here / "x.json", *images), "data")
    assert found(source) == {"a.png": None, "b.png": None}
    (warning,) = source.warnings
    assert "numbered from 1 in its order, because the id" in warning
    assert repr(odd)[:40] in warning


def test_categories_are_compared_by_name(here: Path) -> None:
    names = ["crack", "dent", *"abcdefg"]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    source = CocoImages(dataset(here / "x.json", "a.png", categories=categories), "data")
    source.compare_categories(Categories(("dent", "crack", "stain")))
    source.compare_categories(Categories(("dent", "crack", "stain")))
    assert source.warnings == [
        f"'{here}/x.json': the model does not know the categories a, b, c, d, e and 2 more",
        f"'{here}/x.json': the dataset does not have the model's classes stain",
    ]
    for other in ({}, {"categories": None}, {"categories": [3]}):
        source = CocoImages(dataset(here / "x.json", "a.png", **other), "data")
        source.compare_categories(Categories(("dent",)))
        assert source.warnings == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a COCO dataset: it has no list 'images'"),
        ('{"images": {}}', "it has no list 'images'"),
        ('{"images": [3]}', r"images\[0\] has no 'file_name'"),
        ('{"images": [{"file_name": " "}]}', r"images\[0\] has no 'file_name'"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_other_files_are_refused(here: Path, content: str | bytes, message: str) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (here / "x.json").write_bytes(data)
    with pytest.raises(ConfigError, match=message) as caught:
        CocoImages("x.json").check()
    assert "\n" not in str(caught.value)


def test_wrong_arguments(here: Path) -> None:
    given = dataset(here / "x.json", "a.png")
    with pytest.raises(ConfigError, match="no such file"):
        CocoImages("gone.json").check()
    with pytest.raises(ConfigError, match=f"^root: no directory '{here}/gone'"):
        CocoImages(given, root="gone").check()
    with pytest.raises(ConfigError, match="root: expected a directory, got 3"):
        CocoImages(given, root=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"root: it applies to a COCO \.json, and the input is"):
        auto("data", root="data")


def test_a_dataset_without_images_is_an_empty_run(here: Path) -> None:
    assert found(CocoImages(dataset(here / "x.json"))) == {}


def test_several_inputs_keep_ids_that_do_not_overlap(here: Path) -> None:
    first = dataset(here / "data" / "x.json", "a.png")
    second = dataset(here / "data" / "y.json", {"id": 3, "file_name": "b.png"})
    source = Several([auto(first), auto(second)])
    assert found(source) == {"x.json/a.png": 7, "y.json/b.png": 3}
    assert source.warnings == []
    dataset(here / "data" / "y.json", {"id": 7, "file_name": "b.png"})
    assert found(source) == {"x.json/a.png": None, "y.json/b.png": None}
    (warning,) = source.warnings
    assert "those of the inputs overlap" in warning


def test_several_inputs_compare_the_categories_of_each(here: Path) -> None:
    given = dataset(here / "data" / "x.json", "a.png", categories=[{"id": 1, "name": "crack"}])
    source = Several([auto(given), auto("data")])
    source.compare_categories(Categories(("dent",)))
    assert [text.partition(": ")[2] for text in source.warnings] == [
        "the model does not know the categories crack",
        "the dataset does not have the model's classes dent",
    ]
