from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.masks import InstanceMasks
from pipeline.records import Predictions, Segment
from pipeline.sinks.drawing import Painter
from pipeline.sinks.drawing.colors import color, instance_colors, stuff_color
from pipeline.sinks.style import Style
from pipeline.testing import make_predictions

NAMES = ("person", "cat", "dog")
STUFF = ("things", "sky", "grass")


def gray(height: int, width: int) -> np.ndarray:
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


def changed(drawn: np.ndarray, image: np.ndarray) -> np.ndarray:
    return (drawn != image).any(axis=2)


@pytest.mark.parametrize("n", [0, 1, 30])
@pytest.mark.parametrize(
    ("size", "factor"),
    [
        pytest.param((1, 1), 481, id="one pixel"),
        pytest.param((32, 32), 16, id="tiny"),
        pytest.param((120, 160), 4, id="small"),
        pytest.param((240, 320), 2, id="medium"),
        pytest.param((480, 360), 2, id="largest that is enlarged"),
        pytest.param((360, 481), 1, id="smallest that is not"),
        pytest.param((20, 900), 1, id="strip"),
        pytest.param((1500, 2000), 1, id="large"),
    ],
)
def test_sizes(size: tuple[int, int], factor: int, n: int) -> None:
    image = gray(*size)
    drawn = Painter().draw(image, predictions(size, n))
    assert drawn.shape == (size[0] * factor, size[1] * factor, 3)
    assert (image == 100).all(), "the frame was changed"
    assert not np.shares_memory(drawn, image)
    assert (drawn != 100).any() == bool(n)


def test_masks_are_blended_where_they_are() -> None:
    image = gray(300, 500)
    drawn = Painter(boxes=False, labels=False).draw(image, predictions((300, 500)))
    expected = np.zeros((300, 500), bool)
    expected[30:105, 50:175] = True
    np.testing.assert_array_equal(changed(drawn, image), expected)


@pytest.mark.parametrize("opacity", [0, 0.3, 0.45, 1])
@pytest.mark.parametrize("size", [(120, 160), (300, 500)], ids=["enlarged", "as it is"])
def test_masks_are_mixed_by_their_opacity_inside_an_opaque_outline(
    size: tuple[int, int], opacity: float
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    ring = np.zeros(size, bool)
    ring[20:80, 30:90], ring[40:60, 50:70] = True, False
    p = predictions(size).replace(masks=InstanceMasks.from_dense(ring[None]))
    drawn = Painter(boxes=False, labels=False, opacity=opacity).draw(image, p)
    factor = drawn.shape[0] // size[0]
    image, ring = (x.repeat(factor, 0).repeat(factor, 1) for x in (image, ring))
    inside = cv2.erode(ring.astype(np.uint8), np.ones((3, 3))).astype(bool)
    mixed = opacity * np.array(color(0), float) + (1 - opacity) * image
    expected = np.where(inside[..., None], mixed, np.where(ring[..., None], color(0), image))
    assert np.abs(drawn - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"masks": False, "boxes": False, "labels": False}, False, id="none"),
        pytest.param({"masks": False, "labels": False}, True, id="boxes"),
        pytest.param({"masks": False, "boxes": False}, True, id="labels"),
    ],
)
def test_options(options: dict[str, bool], expected: bool) -> None:
    image = gray(300, 500)
    drawn = Painter(**options).draw(image, predictions((300, 500)))
    assert changed(drawn, image).any() == expected


def test_a_class_keeps_its_color() -> None:
    painter = Painter(boxes=False, labels=False)

    def drawn_color(p: Predictions) -> list[int]:
        return painter.draw(gray(300, 500), p)[50, 60].tolist()  # type: ignore[no-any-return]

    alone = predictions((300, 500)).replace(classes=[1])
    more_classes = alone.replace(class_names=(*NAMES, *map(str, range(77))), stuff_names=STUFF)
    assert drawn_color(alone) == drawn_color(more_classes) == drawn_color(alone)
    assert drawn_color(alone) != drawn_color(alone.replace(classes=[0]))


def test_colors_do_not_change_between_versions() -> None:
    assert [color(0), color(1), stuff_color(0)] == [(24, 50, 242), (90, 191, 19), (133, 242, 142)]


def test_instances_of_a_frame_have_distinct_colors() -> None:
    assert len(set(instance_colors(make_predictions(100), "instance"))) == 100


def test_a_track_keeps_its_color() -> None:
    p = make_predictions(classes=[0, 1, 2]).replace(track_ids=[7, -1, 9])
    first, unconfirmed, _ = instance_colors(p, "track")
    assert unconfirmed == color(1), "by class until the tracker has confirmed it"
    later = make_predictions(classes=[2, 1]).replace(track_ids=[3, 7])
    assert instance_colors(later, "track")[1] == first
    assert instance_colors(make_predictions(classes=[2]), "track") == [color(2)]


def test_what_is_not_finite_is_left_out() -> None:
    p = predictions((300, 500), 2)
    boxes = p.boxes.copy()
    boxes[1] = [np.nan, 0, np.inf, 5]
    image = gray(300, 500)
    expected = Painter().draw(image, p[:1])
    np.testing.assert_array_equal(Painter().draw(image, p.replace(boxes=boxes)), expected)


def test_boxes_beyond_the_frame_are_drawn_at_its_edge() -> None:
    p = predictions((300, 500)).replace(boxes=[[-1e9, -5, 1e9, 300]], masks=None)
    drawn = changed(Painter(labels=False).draw(gray(300, 500), p), gray(300, 500))
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
    p = predictions((300, 500)).replace(masks=None, keypoints=keypoints)
    painter = Painter(boxes=False, labels=False, skeleton=skeleton)
    drawn = changed(painter.draw(gray(300, 500), p), gray(300, 500))
    assert (bool(drawn[200, 100]), bool(drawn[200, 300])) == points
    assert bool(drawn[200, 200]) == joined


def test_sem_seg() -> None:
    seg = np.zeros((300, 500), np.int32)
    seg[:, 100:200], seg[:, 200:300], seg[:, 300:] = 1, 2, 255
    seg[:, :10] = -1
    p = Predictions.empty((300, 500), NAMES).replace(sem_seg=seg, stuff_names=STUFF)
    image = Painter(labels=False).draw(gray(300, 500), p)
    drawn = changed(image, gray(300, 500))
    assert drawn[:, 100:300].all(), "sky and grass"
    assert not drawn[:, :100].any(), "things and values of no class"
    assert not drawn[:, 300:].any(), "values of no class"
    assert (image[0, 150] != image[0, 250]).any()
    labeled = changed(Painter().draw(gray(300, 500), p), image)
    assert labeled[140:160, 110:190].any()
    assert labeled[140:160, 210:290].any()
    assert not labeled[:, 300:].any()


@pytest.mark.parametrize("masks", [True, False], ids=["with instances", "alone"])
def test_panoptic_seg(masks: bool) -> None:
    seg = np.zeros((60, 80), np.int32)
    seg[:30], seg[40:, :20] = 4, 9
    segments = (Segment(4, 1, "sky", False, None, 2400), Segment(9, 1, "cat", True, 0.9, 400))
    p = predictions((60, 80)).replace(panoptic_seg=seg, segments=segments, stuff_names=STUFF)
    p = p if masks else p[:0].replace(masks=None)
    image = Painter(labels=False, boxes=False).draw(gray(60, 80), p)
    drawn = changed(image, gray(420, 560))[3::7, 3::7]
    assert drawn[:6].all(), "stuff"
    assert drawn[40:, :20].all() == (not masks), "things by their masks if there are any"
    assert not drawn[31:40].any()
    Painter().draw(gray(60, 80), p)


def test_drawing_is_the_same_every_time() -> None:
    p = predictions((300, 500), 12)
    images = [Painter().draw(gray(300, 500), p) for _ in range(2)]
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize(("height", "radius"), [(20, 1), (160, 2), (290, 4)])
def test_keypoints_grow_with_the_person(height: int, radius: int) -> None:
    keypoints = np.array([[[250, 150, 1]]], np.float32)
    p = make_predictions(boxes=[[250, 0, 260, height]], size=(300, 500))
    image = Painter(boxes=False, labels=False).draw(gray(300, 500), p.replace(keypoints=keypoints))
    width = changed(image, gray(300, 500))[150].sum()
    assert 2 * radius + 1 <= width <= 2 * radius + 3  # with the smooth edge


@pytest.mark.parametrize("far", [1e12, -1e12])
def test_keypoints_far_outside_are_no_error(far: float) -> None:
    keypoints = np.array([[[far, 0, 1], [100, far, 1]]], np.float32)
    p = make_predictions(1, size=(300, 500)).replace(keypoints=keypoints)
    Painter(skeleton=[(0, 1)]).draw(gray(300, 500), p)


def test_limbs_show_the_color_of_the_instance() -> None:
    keypoints = np.array([[[100, 200, 1], [300, 200, 1]]], np.float32)
    p = make_predictions(boxes=[[0, 0, 400, 300]], size=(300, 500)).replace(keypoints=keypoints)
    painter = Painter(boxes=False, labels=False, skeleton=[(0, 1)], color="instance")
    assert tuple(painter.draw(gray(300, 500), p)[200, 200]) == color(0)


def textured(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("how", ["blur", "pixelate"])
@pytest.mark.parametrize("size", [(120, 160), (600, 500)], ids=["enlarged", "as it is"])
@pytest.mark.parametrize("has_masks", [True, False], ids=["masks", "boxes"])
def test_hidden_instances_have_no_detail_left(size: Any, how: Any, has_masks: bool) -> None:
    image, p = textured(*size), predictions(size)
    style = Style(mask_style=how)
    painter = Painter(boxes=False, labels=False, style=style)
    drawn = painter.draw(image, p if has_masks else p.replace(masks=None))
    factor = drawn.shape[0] // size[0]
    before = image.repeat(factor, 0).repeat(factor, 1)
    x1, y1, x2, y2 = (p.boxes[0] * factor).astype(int)
    mask = np.zeros(drawn.shape[:2], bool)
    mask[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(drawn[~mask], before[~mask])
    assert drawn[mask].std() < 0.5 * before[mask].std()
    if how == "pixelate":
        assert len(np.unique(drawn[mask], axis=0)) <= 8 * 8


def test_small_hidden_instances_have_few_cells() -> None:
    image = textured(300, 500)
    p = make_predictions(boxes=[[10, 10, 22, 16]], size=(300, 500), masks=True)
    drawn = Painter(boxes=False, labels=False, style=Style("pixelate")).draw(image, p)
    assert len(np.unique(drawn[10:16, 10:22].reshape(-1, 3), axis=0)) <= 3 * 2


def test_a_halo_is_around_the_mask_and_fades() -> None:
    image = gray(300, 500)
    painter = Painter(boxes=False, labels=False, style=Style("halo"))
    drawn = painter.draw(image, predictions((300, 500))).astype(int)
    assert (drawn[30:105, 50:175] == 100).all()
    strength = np.abs(drawn[60, 175:195] - 100).sum(axis=1)
    assert strength[0] > 0
    assert (np.diff(strength) <= 0).all()
    assert strength[-1] == 0
    at_the_edge = predictions((300, 500)).replace(
        masks=InstanceMasks.from_crops([np.ones((300, 500), bool)], [(0, 0)], (300, 500))
    )
    np.testing.assert_array_equal(painter.draw(image, at_the_edge), image)


def test_outlines_only() -> None:
    image = gray(300, 500)
    drawn = Painter(boxes=False, labels=False, style=Style("outline")).draw(
        image, predictions((300, 500))
    )
    assert (drawn[60:70, 100:110] == 100).all()
    assert (drawn[30, 50:175] != 100).any(axis=1).all()


def test_thickness_and_text() -> None:
    image, p = gray(600, 800), predictions((600, 800)).replace(masks=None)

    def painted(**options: float) -> int:
        return int(changed(Painter(style=Style(**options)).draw(image, p), image).sum())  # type: ignore[arg-type]

    assert painted(line_scale=3) > painted() > painted(line_scale=0.1)
    assert painted(text_scale=2) > painted() > painted(text_scale=0.5)


def test_colors_by_name() -> None:
    p = make_predictions(
        4, classes=[0, 1, 2, 0], class_names=NAMES, track_ids=np.array([5, -1, 6, -1])
    )
    red = (0, 0, 255)
    assert instance_colors(p, "class", {"person": red}) == [red, color(1), color(2), red]
    assert instance_colors(p, "track", {"person": red}) == [color(5), color(1), color(6), red]
    assert instance_colors(p, "instance", {"person": red}) == [color(i) for i in range(4)]
    seg = np.full((300, 500), 1, np.int32)
    stuff = predictions((300, 500), 0).replace(sem_seg=seg, stuff_names=STUFF)
    drawn = Painter(labels=False, opacity=1, style=Style(colors={"sky": red})).draw(
        gray(300, 500), stuff
    )
    assert (drawn == red).all()
