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
from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Frame, Predictions, Result, Segment
from pipeline.sinks import labels
from pipeline.sinks.drawing import Painter
from pipeline.sinks.labels import label_text, place_labels
from pipeline.sinks.overlay import Overlay

NAMES = ("person", "cat", "dog")
STUFF = ("things", "sky", "grass")


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


def predictions(size: tuple[int, int], n: int = 1, **columns: Any) -> Predictions:
    """Boxes of a quarter of the frame on its diagonal, masks that fill them."""
    height, width = size
    low = np.linspace(0.1, 0.7, n)[:, None] * [width, height]
    boxes = np.hstack([low, low + np.array([width, height]) / 4]).astype(np.float32)
    whole = boxes.astype(int)
    return Predictions(
        size,
        NAMES,
        boxes=boxes,
        scores=np.full(n, 0.5),
        classes=np.arange(n) % len(NAMES),
        masks=InstanceMasks.from_crops(
            [np.ones((y2 - y1, x2 - x1), bool) for x1, y1, x2, y2 in whole],
            [(x1, y1) for x1, y1, _, _ in whole],
            size,
        ),
        **columns,
    )


def changed(picture: np.ndarray, image: np.ndarray) -> np.ndarray:
    return (picture != image).any(axis=2)


def result(image: np.ndarray, p: Predictions, asset: str, time_s: float | None = None) -> Result:
    return Result(Frame(image, asset, 0 if time_s is None else 7, time_s=time_s), p)


def asset(asset_id: str) -> Any:
    return SimpleNamespace(id=asset_id, path=Path(asset_id), is_still=True)


@pytest.mark.parametrize("n", [0, 1, 30])
@pytest.mark.parametrize(
    ("size", "factor"),
    [
        pytest.param((1, 1), 480, id="one pixel"),
        pytest.param((32, 32), 15, id="tiny"),
        pytest.param((120, 160), 3, id="small"),
        pytest.param((240, 320), 1, id="medium"),
        pytest.param((20, 900), 1, id="strip"),
        pytest.param((1500, 2000), 1, id="large"),
    ],
)
def test_sizes(size: tuple[int, int], factor: int, n: int) -> None:
    image = grey(*size)
    picture = Painter().draw(image, predictions(size, n))
    assert picture.shape == (size[0] * factor, size[1] * factor, 3)
    assert (image == 100).all(), "the frame was changed"
    assert not np.shares_memory(picture, image)
    assert (picture != 100).any() == bool(n)


def test_masks_are_blended_where_they_are() -> None:
    image = grey(300, 400)
    picture = Painter(boxes=False, labels=False).draw(image, predictions((300, 400)))
    expected = np.zeros((300, 400), bool)
    expected[30:105, 40:140] = True
    np.testing.assert_array_equal(changed(picture, image), expected)


@pytest.mark.parametrize("opacity", [0, 0.3, 0.45, 1])
@pytest.mark.parametrize("size", [(120, 160), (300, 400)], ids=["enlarged", "as it is"])
def test_masks_are_mixed_by_their_opacity(size: tuple[int, int], opacity: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    ring = np.zeros(size, bool)
    ring[20:80, 30:90], ring[40:60, 50:70] = True, False
    p = predictions(size).replace(masks=InstanceMasks.from_dense(ring[None]))
    picture = Painter(boxes=False, labels=False, opacity=opacity).draw(image, p)
    colour = Painter(boxes=False, labels=False, opacity=1).draw(image, p)
    factor = picture.shape[0] // size[0]
    image, ring = (x.repeat(factor, 0).repeat(factor, 1) for x in (image, ring))
    mixed = np.where(ring[..., None], opacity * colour.astype(float) + (1 - opacity) * image, image)
    assert np.abs(picture - mixed).max() <= 0.51


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"masks": False, "boxes": False, "labels": False}, False, id="none"),
        pytest.param({"masks": False, "labels": False}, True, id="boxes"),
        pytest.param({"masks": False, "boxes": False}, True, id="labels"),
    ],
)
def test_options(options: dict[str, bool], expected: bool) -> None:
    image = grey(300, 400)
    picture = Painter(**options).draw(image, predictions((300, 400)))
    assert changed(picture, image).any() == expected


def test_a_class_keeps_its_colour() -> None:
    painter = Painter(boxes=False, labels=False)

    def colour(p: Predictions) -> list[int]:
        return painter.draw(grey(300, 400), p)[50, 60].tolist()  # type: ignore[no-any-return]

    alone = predictions((300, 400)).replace(classes=[1])
    more_classes = alone.replace(class_names=(*NAMES, *map(str, range(77))), stuff_names=STUFF)
    assert colour(alone) == colour(more_classes) == colour(alone)
    assert colour(alone) != colour(alone.replace(classes=[0]))


def test_what_is_not_finite_is_left_out() -> None:
    p = predictions((300, 400), 2)
    boxes = p.boxes.copy()
    boxes[1] = [np.nan, 0, np.inf, 5]
    image = grey(300, 400)
    expected = Painter().draw(image, p[:1])
    np.testing.assert_array_equal(Painter().draw(image, p.replace(boxes=boxes)), expected)


def test_boxes_beyond_the_frame_are_drawn_at_its_edge() -> None:
    p = predictions((300, 400)).replace(boxes=[[-1e9, -5, 1e9, 300]], masks=None)
    picture = Painter(labels=False).draw(grey(300, 400), p)
    drawn = changed(picture, grey(300, 400))
    assert drawn[:, -1].all()
    assert drawn[-1, :].all()


@pytest.mark.parametrize(
    ("scores", "skeleton", "joined", "points"),
    [
        pytest.param([0.9, 0.9], [(0, 1)], True, (True, True), id="joined"),
        pytest.param([0.9, 0.9], [], False, (True, True), id="no skeleton"),
        pytest.param([0.9, 0.05], [(0, 1)], False, (True, False), id="low score"),
        pytest.param([np.nan, 0.9], [(0, 1)], False, (False, True), id="NaN"),
    ],
)
def test_keypoints(
    scores: list[float],
    skeleton: list[tuple[int, int]],
    joined: bool,
    points: tuple[bool, bool],
) -> None:
    keypoints = np.array([[[100, 200, scores[0]], [300, 200, scores[1]]]], np.float32)
    p = predictions((300, 400)).replace(masks=None, keypoints=keypoints)
    painter = Painter(boxes=False, labels=False, skeleton=skeleton)
    drawn = changed(painter.draw(grey(300, 400), p), grey(300, 400))
    assert (bool(drawn[200, 100]), bool(drawn[200, 300])) == points
    assert bool(drawn[200, 200]) == joined


def test_sem_seg() -> None:
    seg = np.zeros((300, 400), np.int32)
    seg[:, 100:200], seg[:, 200:300], seg[:, 300:] = 1, 2, 255
    seg[:, :10] = -1
    p = Predictions.empty((300, 400), NAMES).replace(sem_seg=seg, stuff_names=STUFF)
    picture = Painter(labels=False).draw(grey(300, 400), p)
    drawn = changed(picture, grey(300, 400))
    assert drawn[:, 100:300].all(), "sky and grass"
    assert not drawn[:, :100].any(), "things and what is no class"
    assert not drawn[:, 300:].any(), "what is no class"
    assert (picture[0, 150] != picture[0, 250]).any()
    labelled = changed(Painter().draw(grey(300, 400), p), picture)
    assert labelled[140:160, 110:190].any()
    assert labelled[140:160, 210:290].any()
    assert not labelled[:, 300:].any()


@pytest.mark.parametrize("masks", [True, False], ids=["with instances", "alone"])
def test_panoptic_seg(masks: bool) -> None:
    seg = np.zeros((60, 80), np.int32)
    seg[:30], seg[40:, :20] = 4, 9
    segments = (Segment(4, 1, "sky", False, None, 2400), Segment(9, 1, "cat", True, 0.9, 400))
    p = predictions((60, 80)).replace(panoptic_seg=seg, segments=segments, stuff_names=STUFF)
    p = p if masks else p[:0].replace(masks=None)
    picture = Painter(labels=False, boxes=False).draw(grey(60, 80), p)
    drawn = changed(picture, np.repeat(np.repeat(grey(60, 80), 6, 0), 6, 1))[3::6, 3::6]
    assert drawn[:6].all(), "stuff"
    assert drawn[40:, :20].all() == (not masks), "things by their masks where there are any"
    assert not drawn[31:40].any()
    Painter().draw(grey(60, 80), p)


def test_drawing_is_the_same_every_time() -> None:
    p = predictions((300, 400), 12)
    pictures = [Painter().draw(grey(300, 400), p) for _ in range(2)]
    np.testing.assert_array_equal(*pictures)


def test_labels_stay_in_the_frame_and_off_small_objects() -> None:
    objects = np.array([[0, 0, 400, 300], [200, 150, 210, 160], [390, 5, 400, 12]], np.float32)
    placed = place_labels(objects.tolist(), [(80, 20)] * 3, objects, (300, 400))
    assert (placed[:, :2] >= 0).all()
    assert (placed[:, 2:] <= [400, 300]).all()
    for x1, y1, x2, y2 in objects[1:]:
        apart = (
            (placed[:, 2] <= x1)
            | (placed[:, 0] >= x2)
            | (placed[:, 3] <= y1)
            | (placed[:, 1] >= y2)
        )
        assert apart.all()


def test_labels_keep_clear_of_one_another() -> None:
    objects = np.array([[100, 100, 180, 180]] * 3, np.float32)
    placed = place_labels(objects.tolist(), [(70, 15)] * 3, objects, (300, 400))
    assert len({tuple(spot) for spot in placed.tolist()}) == 3


@pytest.mark.parametrize(
    ("name", "score", "track", "unicode", "expected"),
    [
        pytest.param("person", 0.934, None, True, "person 0.93", id="plain"),
        pytest.param("person", 1.0, 3, True, "#3 person 1.00", id="track"),
        pytest.param("sky", None, None, True, "sky", id="no score"),
        pytest.param("a\nb", 0.5, None, True, "a b 0.50", id="newline"),
        pytest.param("x" * 40, 0.5, None, True, "x" * 30 + ".. 0.50", id="long"),
        pytest.param("Fußgänger", 0.5, None, True, "Fußgänger 0.50", id="OpenCV 5"),
        pytest.param("vélo", 0.5, None, False, "velo 0.50", id="OpenCV 4 accent"),
        pytest.param("猫", 0.5, None, False, "class 7 0.50", id="OpenCV 4 other script"),
    ],
)
def test_label_text(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    score: float | None,
    track: int | None,
    unicode: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(labels, "_CV2_DRAWS_UNICODE", unicode)
    assert label_text(name, 7, score, track) == expected


ODD_NAMES = [
    "👩\u200d🚀" * 40, "日本語", "العربية", "नमस्ते", "a" * 300, "Z" + "\u0301" * 300, "\ud800",
    "\udcff" * 40, "a\0b", "\u202eabc", "\u200d", "\U0010ffff", "\ufffe", "%s%n",
]  # fmt: skip


def test_names_of_any_script_are_drawn() -> None:
    """In a process of its own: OpenCV ends it for half of a surrogate pair."""
    code = f"""
import numpy as np
from pipeline.sinks.drawing import Painter
from pipeline.testing import make_predictions
for name in {ODD_NAMES!a}:
    found = make_predictions(2, class_names=(name,))
    image = np.zeros((*found.image_size, 3), np.uint8)
    assert Painter().draw(image, found).any(), ascii(name)
"""
    root = Path(labels.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_pictures_mirror_the_input(tmp_path: Path) -> None:
    p = predictions((300, 400), track_ids=np.array([4]))
    with Overlay(tmp_path) as sink:
        for name, time_s in (("a/x.jpg", None), ("a/x.png", None), ("caf\udce9", None), ("v", 0.5)):
            sink.write(result(grey(300, 400), p, name, time_s))
            sink.flush(asset(name))
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg")}
    assert names == {"a/x.jpg.jpg", "a/x.png.jpg", "caf\udce9.jpg", "v/000007.jpg"}
    assert cv2.imread(str(tmp_path / "a/x.jpg.jpg")).shape == (300, 400, 3)


def test_discard_removes_the_pictures(tmp_path: Path) -> None:
    p = predictions((300, 400))
    kept, failed, undone = asset("kept"), asset("failed"), asset("undone")
    with Overlay(tmp_path) as sink:
        for each in (kept, failed, undone):
            sink.write(result(grey(300, 400), p, each.id))
        sink.flush(kept)
        sink.discard(failed)
        sink.flush(undone)
        sink.discard(undone)  # another sink could not flush it
        sink.discard(undone)
        sink.discard(asset("never written"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.jpg"]
    with Overlay(tmp_path) as sink:  # a later run, in which the input fails
        sink.discard(asset("kept"))
    assert list(tmp_path.iterdir()) == []


def test_the_skeleton_comes_from_the_model(tmp_path: Path) -> None:
    sink = Overlay(tmp_path, boxes=False, labels=False, quality=100)
    sink.check(Categories(("person",), skeleton=((0, 1),)))
    keypoints = np.float32([[[100, 200, 1], [300, 200, 1]]])
    with sink:
        p = predictions((300, 400)).replace(masks=None, keypoints=keypoints)
        sink.write(result(grey(300, 400), p, "x"))
    blue, green, _ = cv2.imread(str(tmp_path / "x.jpg"))[200, 200].astype(int)
    assert blue > 180
    assert green > 180


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"quality": 0}, "quality=0: expected", id="quality too low"),
        pytest.param({"quality": 101}, "quality=101: expected", id="quality too high"),
        pytest.param({"opacity": 1.5}, "opacity=1.5: expected", id="opacity"),
    ],
)
def test_bad_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Overlay("anywhere", **options)


def test_a_picture_that_no_jpeg_holds(tmp_path: Path) -> None:
    image = grey(1, 70_000)
    with Overlay(tmp_path) as sink, pytest.raises(SinkError, match="70000 x 1 px") as caught:
        sink.write(result(image, Predictions.empty((1, 70_000)), "wide.png"))
    assert caught.value.asset_id == "wide.png"
    assert list(tmp_path.iterdir()) == []


def test_write_needs_with(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="enter the sink"):
        Overlay(tmp_path).write(result(grey(9, 9), Predictions.empty((9, 9)), "x"))


def test_importing_the_sinks_loads_nothing_heavy() -> None:
    code = (
        "import sys, pipeline.sinks.overlay, pipeline.sinks.coco, pipeline.sinks.label_maps\n"
        "sys.exit(len({'torch', 'supervision', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
