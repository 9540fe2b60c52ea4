"""What the sinks with a file per image share: names, images, discarding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from shaped import ODD_ASSETS, image_asset, shaped, write_to

from pipeline.errors import ConfigError, SinkError
from pipeline.records import Categories, Frame, Predictions, Result
from pipeline.sinks.labelme import Labelme
from pipeline.sinks.voc import Voc
from pipeline.sinks.yolo import Yolo

SINKS = [Yolo, Voc, Labelme]


def files(folder: Path) -> dict[str, Path]:
    found = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in found}


def video(asset_id: str) -> Any:
    return SimpleNamespace(id=asset_id, path=Path(asset_id), is_still=False)


@pytest.mark.parametrize("sink", SINKS)
def test_each_image_lies_beside_its_annotations(tmp_path: Path, sink: Callable[..., Any]) -> None:
    names = ("a/x.jpg", "a/x.png", "b/y.PNG", *ODD_ASSETS)
    assets = [image_asset(tmp_path / "in", name) for name in names]
    made = sink(tmp_path / "out")
    write_to(made, *assets)
    found = files(tmp_path / "out")
    for asset in assets:
        label = found[f"{made.labels_folder}{asset.id}{made.suffix}"]
        image = found[f"{made.images_folder}{asset.id}{asset.path.suffix}"]
        assert image.name.removesuffix(image.suffix) == label.name.removesuffix(label.suffix)
        assert image.is_symlink()
        assert not image.readlink().is_absolute()
        assert image.read_bytes() == asset.path.read_bytes()
    assert len(found) == 2 * len(assets) + (sink is Yolo)


@pytest.mark.parametrize("sink", SINKS)
def test_without_images(tmp_path: Path, sink: Callable[..., Any]) -> None:
    made = sink(tmp_path / "out", images="none")
    assert made.needs_pixels is False
    write_to(made, image_asset(tmp_path / "in", "a.b/x.1.jpg"), image_asset(tmp_path / "in", "y"))
    expected = {f"{made.labels_folder}{name}{made.suffix}" for name in ("a.b/x.1.jpg", "y")}
    assert set(files(tmp_path / "out")) - {"data.yaml"} == expected


@pytest.mark.parametrize("images", ["link", "copy"])
def test_frames_and_what_is_no_image_file_are_written_as_jpeg(tmp_path: Path, images: Any) -> None:
    member = SimpleNamespace(id="in/zip.png", path=tmp_path / "photos.zip", is_still=True)
    heic = image_asset(tmp_path / "in", "x.heic")
    write_to(Yolo(tmp_path / "out", images=images), video("v.mp4"), member, heic)
    found = files(tmp_path / "out/images")
    assert set(found) == {
        "v.mp4/000000.jpg", "v.mp4/000007.jpg", "in/zip.png.jpg", "x.heic.jpg",
    }  # fmt: skip
    for path in found.values():
        assert abs(cv2.imread(str(path)).astype(int) - 90).max() < 3
    assert set(files(tmp_path / "out/labels")) == {name.replace(".jpg", ".txt") for name in found}


def test_copies(tmp_path: Path) -> None:
    asset = image_asset(tmp_path / "in", "a/x.jpg")
    write_to(Voc(tmp_path / "out", images="copy"), asset)
    copy = tmp_path / "out/JPEGImages/a/x.jpg.jpg"
    assert not copy.is_symlink()
    assert copy.read_bytes() == asset.path.read_bytes()


def test_links_work_when_the_output_is_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "deep/er")
    write_to(Yolo(tmp_path / "run/yolo"), image_asset(tmp_path / "in", "x.jpg"))
    assert (tmp_path / "deep/er/yolo/images/x.jpg.jpg").read_bytes()


@pytest.mark.parametrize("sink", SINKS)
def test_discard_removes_labels_and_images(tmp_path: Path, sink: Callable[..., Any]) -> None:
    x, y = (image_asset(tmp_path / "in", name) for name in ("d/x.jpg", "d/y.jpg"))
    bare = image_asset(tmp_path / "in", "bare")
    made = sink(tmp_path / "out")
    write_to(made, x, y, bare, video("v.mp4"))
    again = sink(tmp_path / "out")  # a later run, in which they fail
    for asset in (x, bare, video("v.mp4"), video("never written")):
        again.discard(asset)
    names = {Path(name).name.split(".")[0] for name in files(tmp_path / "out")}
    assert names - {"data"} == {"y"}


def test_a_link_is_replaced_and_its_target_is_not_touched(tmp_path: Path) -> None:
    asset = image_asset(tmp_path / "in", "x.jpg")
    before = asset.path.read_bytes()
    write_to(Yolo(tmp_path / "out"), asset)
    write_to(Yolo(tmp_path / "out"), asset)
    write_to(Yolo(tmp_path / "out", images="copy"), asset)
    assert not (tmp_path / "out/images/x.jpg.jpg").is_symlink()
    assert asset.path.read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("sink", SINKS)
def test_equal_results_give_equal_bytes(tmp_path: Path, sink: Callable[..., Any]) -> None:
    asset = image_asset(tmp_path / "in", "x.jpg")
    for name in "ab":
        write_to(sink(tmp_path / name / "out"), asset, p=shaped())
    a, b = files(tmp_path / "a"), files(tmp_path / "b")
    assert {k: v.read_bytes() for k, v in a.items()} == {k: v.read_bytes() for k, v in b.items()}


@pytest.mark.parametrize("sink", SINKS)
def test_bad_options_and_models(sink: Callable[..., Any]) -> None:
    options: list[dict[str, Any]] = [{"min_score": 2}, {"images": "move"}]
    if sink is not Voc:
        options.append({"tolerance_px": -1})
    for each in options:
        with pytest.raises(ConfigError, match=next(iter(each))):
            sink("anywhere", **each)
    with pytest.raises(ConfigError, match="semantic"):
        sink("anywhere").check(Categories(stuff_names=("sky",)))


def test_a_frame_that_is_too_large_for_jpeg(tmp_path: Path) -> None:
    image = np.zeros((1, 70_000, 3), np.uint8)
    with Yolo(tmp_path / "out") as sink:
        sink.begin(video("wide.mp4"))
        with pytest.raises(SinkError, match="images=none"):
            sink.write(Result(Frame(image, "wide.mp4"), Predictions.empty((1, 70_000))))
