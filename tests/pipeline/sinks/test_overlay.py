from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import ConfigError, SinkError
from pipeline.records import Categories, Frame, Predictions, Result
from pipeline.sinks.overlay import Overlay
from pipeline.testing import make_predictions, make_result

SIZE = (300, 500)


def asset(asset_id: str, is_still: bool = True) -> Any:
    return SimpleNamespace(id=asset_id, path=Path(asset_id), is_still=is_still)


def write(sink: Overlay, asset_id: str, frames: tuple[int, ...] = ()) -> None:
    """Write an asset: a still, or the frames of a video."""
    sink.begin(asset(asset_id, is_still=not frames))
    for index in frames or (0,):
        sink.write(make_result(2, asset_id=asset_id, index=index, size=SIZE, masks=True))
    sink.flush(asset(asset_id))


def test_images_mirror_the_input(tmp_path: Path) -> None:
    with Overlay(tmp_path) as sink:
        for name in ("a/x.jpg", "a/x.png", "caf\udce9"):
            write(sink, name)
        write(sink, "v", frames=(7, 8))
        write(sink, "last")
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg")}
    assert names == {
        "a/x.jpg.jpg", "a/x.png.jpg", "caf\udce9.jpg", "v/000007.jpg", "v/000008.jpg", "last.jpg",
    }  # fmt: skip
    assert cv2.imread(str(tmp_path / "a/x.jpg.jpg")).shape == (*SIZE, 3)


def test_discard_removes_the_images(tmp_path: Path) -> None:
    with Overlay(tmp_path) as sink:
        for name in ("kept", "failed", "undone"):
            write(sink, name)
        write(sink, "video", frames=(0, 1))
        sink.discard(asset("failed"))
        sink.discard(asset("video", is_still=False))
        sink.discard(asset("undone"))  # another sink could not flush it
        sink.discard(asset("undone"))
        sink.discard(asset("never written"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.jpg"]
    with Overlay(tmp_path) as sink:  # a later run, in which the input fails
        sink.discard(asset("kept"))
    assert list(tmp_path.iterdir()) == []


def test_the_skeleton_comes_from_the_model(tmp_path: Path) -> None:
    sink = Overlay(tmp_path, boxes=False, labels=False, quality=100)
    sink.check(Categories(("person",), skeleton=((0, 1),)))
    keypoints = np.float32([[[100, 200, 1], [300, 200, 1]]])
    p = make_predictions(boxes=[[0, 0, 400, 300]], size=SIZE).replace(keypoints=keypoints)
    with sink:
        sink.write(Result(Frame(np.full((*SIZE, 3), 100, np.uint8), "x"), p))
    blue, green, _ = cv2.imread(str(tmp_path / "x.jpg"))[200, 200].astype(int)
    assert blue > 180
    assert green > 180


def test_color_reaches_the_drawing(tmp_path: Path) -> None:
    boxes, options = [[0, 0, 200, 300], [300, 0, 500, 300]], {"quality": 100, "opacity": 1}
    result = make_result(boxes=boxes, classes=[0, 0], size=SIZE, masks=True)
    for color in ("class", "instance"):
        with Overlay(tmp_path / color, color=color, **options) as sink:  # type: ignore[arg-type]
            sink.write(result)
        image = cv2.imread(str(tmp_path / color / "a.jpg.jpg")).astype(int)
        differs = np.abs(image[150, 100] - image[150, 400]).max() > 50
        assert differs == (color == "instance")


def test_styles_reach_the_drawing(tmp_path: Path) -> None:
    result = make_result(2, size=SIZE, masks=True)
    styles: list[dict[str, Any]] = [
        {}, {"mask_style": "outline"}, {"mask_style": "halo"}, {"mask_style": "blur"},
        {"mask_style": "pixelate"}, {"line_scale": 3}, {"text_scale": 2}, {"label": "{score}"},
        {"colors": {"cat": "#00Ff00"}},
    ]  # fmt: skip
    drawn = set()
    for i, style in enumerate(styles):
        with Overlay(tmp_path / str(i), **style) as sink:
            sink.check(Categories(("cat", "dog", "bird")))
            drawn.add(bytes(sink.jpeg(result)))
    assert len(drawn) == len(styles)


def test_colors_are_of_classes_that_the_model_has() -> None:
    sink = Overlay("anywhere", colors={"cats": "#00ff00"})
    with pytest.raises(
        ConfigError, match="colors: the model has no class 'cats'; did you mean 'cat'"
    ):
        sink.check(Categories(("cat", "dog"), stuff_names=("sky",)))
    Overlay("anywhere", colors={"sky": "#00ff00"}).check(Categories(("cat",), stuff_names=("sky",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mask_style": "glow"},
            "mask_style: expected fill, outline, halo, blur or pixelate, got 'glow'",
        ),
        ({"line_scale": 0}, "line_scale: expected a number from 0.1 to 10, got 0"),
        ({"text_scale": 11}, "text_scale: expected a number from 0.1 to 10, got 11"),
        (
            {"label": "{name.__class__}"},
            "label: expected text with {track}, {name}, {score}, {class_id} and no other { or }, "
            "got '{name.__class__}'",
        ),
        ({"colors": {"a": "red"}}, "colors.a: expected a color written as '#ff0000', got 'red'"),
        ({"quality": 0}, "quality: expected a whole number from 1 to 100, got 0"),
        ({"quality": 101}, "quality: expected a whole number from 1 to 100, got 101"),
        ({"opacity": 1.5}, "opacity: expected a number from 0 to 1, got 1.5"),
        ({"boxes": "no"}, "boxes: expected true or false, got 'no'"),
        ({"color": "score"}, "color: expected class, instance or track, got 'score'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Overlay("anywhere", **options)
    assert str(caught.value) == message


def test_an_image_that_is_too_large_for_jpeg(tmp_path: Path) -> None:
    image = np.zeros((1, 70_000, 3), np.uint8)
    with Overlay(tmp_path) as sink, pytest.raises(SinkError, match="70000 x 1 px") as caught:
        sink.write(Result(Frame(image, "wide.png"), Predictions.empty((1, 70_000))))
    assert caught.value.asset_id == "wide.png"
    assert list(tmp_path.iterdir()) == []


def test_write_needs_with(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="enter the sink"):
        Overlay(tmp_path).write(make_result())


def test_importing_the_sinks_loads_nothing_heavy() -> None:
    code = (
        "import sys, pipeline.sinks.overlay, pipeline.sinks.coco, pipeline.sinks.label_maps\n"
        "sys.exit(len({'torch', 'supervision', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
