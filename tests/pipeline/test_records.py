from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from pipeline.job import Outcome, Report
from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Frame, Predictions, Segment
from pipeline.testing import make_frame, make_predictions, make_result


@pytest.mark.parametrize(
    ("image", "got"),
    [
        pytest.param(np.zeros((4, 5), np.uint8), r"uint8 \(4, 5\)", id="grey"),
        pytest.param(np.zeros((4, 5, 4), np.uint8), r"uint8 \(4, 5, 4\)", id="alpha"),
        pytest.param(np.zeros((4, 5, 3), np.float32), r"float32 \(4, 5, 3\)", id="float"),
        pytest.param(np.zeros((0, 5, 3), np.uint8), r"uint8 \(0, 5, 3\)", id="empty"),
    ],
)
def test_frame_refuses(image, got):
    with pytest.raises(ValueError, match=rf"Frame.image: expected .*uint8 \(H, W, 3\), got {got}"):
        Frame(image, "a.jpg")


def test_frame_size_is_height_width():
    frame = make_frame(4, 5)
    assert frame.size == (4, 5)
    assert all(type(side) is int for side in frame.size)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"boxes": np.zeros((2, 4))}, r"boxes: expected shape \(3, 4\)", id="n boxes"),
        pytest.param({"boxes": np.zeros((3, 5))}, r"boxes: .* got \(3, 5\)", id="rotated boxes"),
        pytest.param({"scores": np.zeros((3, 1))}, r"scores: expected shape \(3,\)", id="scores"),
        pytest.param({"scores": np.float32(1)}, r"expected", id="a single score"),
        pytest.param({"classes": [0, 1]}, r"classes: expected shape \(3,\)", id="n classes"),
        pytest.param({"classes": [0, 1, 3]}, r"classes: expected ids in 0..2, got 0..3", id="high"),
        pytest.param({"classes": [0, 1, -1]}, r"ids in 0..2, got -1..1", id="negative class"),
        pytest.param({"class_names": ()}, r"expected ids in 0..-1, got 0..2", id="no names"),
        pytest.param({"keypoints": np.zeros((3, 17, 2))}, r"keypoints: expected", id="no score"),
        pytest.param({"keypoints": np.zeros((2, 17, 3))}, r"keypoints: expected", id="n keypoints"),
        pytest.param({"track_ids": [1]}, r"track_ids: expected shape \(3,\)", id="n tracks"),
        pytest.param({"sem_seg": np.zeros((64, 48))}, r"sem_seg: expected .*48, 64\)", id="w, h"),
        pytest.param({"panoptic_seg": np.zeros((1, 48, 64))}, r"panoptic_seg: expected", id="ndim"),
        pytest.param(
            {"masks": InstanceMasks.from_dense(np.zeros((2, 48, 64), bool))},
            r"masks: expected 3 masks of size \(48, 64\), got 2 of \(48, 64\)", id="n masks",
        ),
        pytest.param(
            {"masks": InstanceMasks.from_dense(np.zeros((3, 64, 48), bool))},
            r"masks: expected 3 masks of size \(48, 64\), got 3 of \(64, 48\)", id="size of masks",
        ),
        pytest.param(
            {"extra": {"speed": np.zeros(2)}},
            r"extra\['speed'\]: expected first dimension 3, got \(2,\)", id="extra",
        ),
    ],
)  # fmt: skip
def test_predictions_refuse(fields, message):
    with pytest.raises(ValueError, match=message):
        make_predictions(3).replace(**fields)


def test_arrays_get_their_dtypes():
    p = Predictions(
        image_size=(2, 3), class_names=("a",), boxes=[[0, 0, 1, 1]], scores=[0.5], classes=[0],
        keypoints=[[[0, 0, 1]]], track_ids=[7], sem_seg=np.zeros((2, 3), np.uint8),
        panoptic_seg=np.zeros((2, 3), np.int64),
    )  # fmt: skip
    assert p.boxes.dtype == p.scores.dtype == p.keypoints.dtype == np.float32
    assert p.classes.dtype == p.track_ids.dtype == np.int64
    assert p.sem_seg.dtype == p.panoptic_seg.dtype == np.int32


def test_right_arrays_are_not_copied():
    boxes = np.zeros((3, 4), np.float32)
    assert make_predictions(3).replace(boxes=boxes).boxes is boxes


def test_records_are_frozen():
    with pytest.raises(FrozenInstanceError):
        make_predictions().scores = None  # type: ignore[misc]
    with pytest.raises((FrozenInstanceError, TypeError)):
        make_frame().new = 1  # type: ignore[attr-defined]


def full():
    return make_predictions(
        4, masks=True, keypoints=2,
        track_ids=[10, 11, 12, 13], extra={"speed": np.arange(8).reshape(4, 2)},
        sem_seg=np.zeros((48, 64)), panoptic_seg=np.ones((48, 64)), stuff_names=("sky",),
        segments=(Segment(1, 0, "sky", False, None, 48 * 64),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        pytest.param(2, [2], id="int"),
        pytest.param(-1, [3], id="negative int"),
        pytest.param(np.int64(1), [1], id="NumPy int"),
        pytest.param(slice(1, 3), [1, 2], id="slice"),
        pytest.param(slice(None, None, -1), [3, 2, 1, 0], id="reversed"),
        pytest.param([3, 0], [3, 0], id="list: in its order"),
        pytest.param([0, 0], [0, 0], id="twice"),
        pytest.param([], [], id="empty list"),
        pytest.param(np.array([1, 2]), [1, 2], id="positions"),
        pytest.param(np.array([True, False, False, True]), [0, 3], id="boolean"),
        pytest.param([True, False, False, True], [0, 3], id="list of bool"),
        pytest.param(np.zeros(4, bool), [], id="boolean, none"),
    ],
)
def test_selection(index, chosen):
    p = full()
    q = p[index]
    assert len(q) == len(chosen)
    assert q.track_ids.tolist() == [10 + i for i in chosen]
    for name in ("boxes", "scores", "classes", "keypoints"):
        np.testing.assert_array_equal(getattr(q, name), getattr(p, name)[chosen])
    np.testing.assert_array_equal(q.masks.dense(), p.masks.dense()[chosen])
    np.testing.assert_array_equal(q.extra["speed"], p.extra["speed"][chosen])
    assert q.sem_seg is p.sem_seg  # what belongs to the frame is kept
    assert q.panoptic_seg is p.panoptic_seg
    assert (q.segments, q.stuff_names) == (p.segments, p.stuff_names)
    assert q.class_names is p.class_names


@pytest.mark.parametrize("index", [4, [0, 4], np.ones(5, bool)], ids=["int", "list", "boolean"])
def test_selection_out_of_range(index):
    with pytest.raises(IndexError):
        full()[index]


def test_repr_is_short():
    fields = "masks, keypoints, track_ids, sem_seg, panoptic_seg, speed"
    assert repr(full()) == f"Predictions(4 instances, image_size=(48, 64), with {fields})"
    assert repr(make_predictions(0)) == "Predictions(0 instances, image_size=(48, 64))"
    assert repr(full().masks) == "InstanceMasks(4 masks, size=(48, 64))"


def test_selection_where_nothing_is_optional():
    q = make_predictions(2)[[1]]
    assert (q.masks, q.keypoints, q.track_ids, dict(q.extra)) == (None, None, None, {})


def test_concatenate():
    p = full()
    joined = Predictions.concatenate([p[:1], p[[]], p[1:]])
    assert len(joined) == 4
    for name in ("boxes", "scores", "classes", "keypoints", "track_ids"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(p, name))
    assert [edges.tolist() for edges in joined.masks.edges] == [e.tolist() for e in p.masks.edges]
    np.testing.assert_array_equal(joined.extra["speed"], p.extra["speed"])
    assert joined.sem_seg is p.sem_seg
    assert joined.panoptic_seg is p.panoptic_seg
    assert (joined.segments, joined.stuff_names) == (p.segments, p.stuff_names)


def test_concatenate_where_nothing_is_optional():
    joined = Predictions.concatenate(
        [make_predictions(2), make_predictions(3), make_predictions(0)]
    )
    assert len(joined) == 5
    assert joined.masks is joined.keypoints is joined.track_ids is joined.sem_seg is None


def test_concatenate_nothing():
    with pytest.raises(ValueError, match="at least one part"):
        Predictions.concatenate([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"masks": None}, "not all parts have masks", id="masks"),
        pytest.param({"keypoints": None}, "not all parts have keypoints", id="keypoints"),
        pytest.param(
            {"keypoints": np.zeros((4, 3, 3))},
            r"keypoints has different dtypes or shapes: "
            r"float32 \('N', 2, 3\) and float32 \('N', 3, 3\)",
            id="keypoints of another kind",
        ),
        pytest.param({"track_ids": None}, "not all parts have track_ids", id="track_ids"),
        pytest.param({"extra": {}}, r"not all parts have extra \['speed'\]", id="extra"),
        pytest.param(
            {"extra": {"speed": np.zeros((4, 2))}},
            r"extra\['speed'\] has different dtypes or shapes: "
            r"float64 \('N', 2\) and int64 \('N', 2\)",
            id="extra of another type",
        ),
        pytest.param({"sem_seg": None}, "sem_seg differs", id="map in one part"),
        pytest.param({"panoptic_seg": np.zeros((48, 64))}, "panoptic_seg differs", id="map"),
        pytest.param({"segments": ()}, "segments differs", id="segments"),
        pytest.param({"class_names": ("a", "b", "c")}, "class_names differs", id="class_names"),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_concatenate_refuses(changes, message, order):
    with pytest.raises(ValueError, match=f"Predictions.concatenate: {message}"):
        Predictions.concatenate([full(), full().replace(**changes)][::order])


def test_concatenate_refuses_frames_of_different_sizes():
    with pytest.raises(ValueError, match="image_size differs"):
        Predictions.concatenate([make_predictions(size=(48, 64)), make_predictions(size=(64, 48))])


def test_empty():
    p = Predictions.empty((3, 4), ("a",))
    assert (len(p), p.image_size, p.class_names) == (0, (3, 4), ("a",))
    assert p.area_px.shape == (0,)
    assert len(p[np.zeros(0, bool)]) == 0
    assert len(Predictions.empty((3, 4))) == 0


def test_area_of_boxes_and_masks():
    boxes = [[0, 0, 2.5, 2], [5, 5, 5, 9], [9, 9, 3, 3]]
    p = make_predictions(boxes=boxes)
    assert p.area_px.tolist() == [5.0, 0.0, 0.0]  # a box inside out has no area
    bitmaps = np.zeros((3, 48, 64), bool)
    bitmaps[1, 0, :7] = True
    q = p.replace(masks=InstanceMasks.from_dense(bitmaps))
    assert q.area_px.tolist() == [0.0, 7.0, 0.0]
    assert p.area_px.dtype == q.area_px.dtype == np.float64


def test_area_does_not_lose_pixels_in_float32():
    assert make_predictions(boxes=[[0, 0, 8191, 8193]], size=(9000, 9000)).area_px == [8191 * 8193]


def test_result_replace_keeps_the_frame():
    result = make_result()
    after = result.replace(result.predictions[:0])
    assert after.frame is result.frame
    assert (len(after.predictions), len(result.predictions)) == (0, 3)


def test_categories_without_ids_count_from_one():
    categories = Categories(thing_names=("a", "b"), stuff_names=("s",))
    assert (categories.thing_ids, categories.stuff_ids) == ((1, 2), (1,))
    assert Categories().thing_ids == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"thing_names": ("a",), "thing_ids": (1, 2)}, "thing_ids: expected 1", id="n"),
        pytest.param({"stuff_ids": (1,)}, "stuff_ids: expected 0 ids", id="ids without names"),
        pytest.param(
            {"thing_names": ("a", "b"), "thing_ids": (7, 7)}, "thing_ids: duplicate id", id="twice",
        ),
        pytest.param({"thing_names": ("a",), "thing_ids": (True,)}, "whole numbers", id="bool"),
        pytest.param({"thing_names": ("a",), "thing_ids": (-1,)}, "whole numbers", id="minus"),
        pytest.param({"thing_names": ("",)}, "is empty", id="empty"),
        pytest.param({"stuff_names": (" ",)}, "is empty", id="blank"),
        pytest.param({"thing_names": (1,)}, "is not text but int", id="number"),
        pytest.param({"thing_names": ("a\ud800",)}, "surrogate pair, U[+]D800", id="surrogate"),
        pytest.param({"stuff_names": ("a\nb",)}, "control character, U[+]000A", id="newline"),
        pytest.param({"keypoint_names": ("a\0",)}, "control character, U[+]0000", id="nul"),
        pytest.param({"thing_names": ("a\u2029",)}, "control character, U[+]2029", id="separator"),
        pytest.param(
            {"keypoint_names": ("a",), "skeleton": ((0, 1),)}, "indices in 0..0", id="skeleton"
        ),
        pytest.param(
            {"keypoint_names": ("a",), "skeleton": ((0, -1),)}, "indices in 0..0", id="below"
        ),
    ],
)  # fmt: skip
def test_categories_refuse(fields, message):
    with pytest.raises(ValueError, match=message):
        Categories(**fields)


def test_defaults_are_not_shared():
    assert Outcome(asset=None).timings is not Outcome(asset=None).timings
    assert Report(0).counts is not Report(0).counts
    assert make_predictions().extra is not make_predictions().extra
