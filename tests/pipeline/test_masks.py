from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.masks import InstanceMasks, crop_edges
from pipeline.runnables.steps.mask_runs import paste


def coco(bitmap):
    rle = coco_mask.encode(np.asfortranarray(bitmap, np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def drawn(height, width, *parts):
    bitmap = np.zeros((height, width), bool)
    for part in parts:
        bitmap[part] = True
    return bitmap


S = np.s_
RNG = np.random.default_rng(0)
CHECKER = np.indices((6, 7)).sum(0) % 2
RING = drawn(30, 20, S[5:25, 4:16]) & ~drawn(30, 20, S[10:20, 8:12])
BITMAPS = {
    "empty": drawn(5, 6),
    "full": drawn(5, 6, S[:]),
    "one pixel": drawn(5, 6, S[2, 3]),
    "first pixel": drawn(5, 6, S[0, 0]),
    "last pixel": drawn(5, 6, S[-1, -1]),
    "all but the first": ~drawn(5, 6, S[0, 0]),
    "all but the last": ~drawn(5, 6, S[-1, -1]),
    "corners": drawn(5, 6, S[0, 0], S[0, -1], S[-1, 0], S[-1, -1]),
    "first column": drawn(5, 6, S[:, 0]),
    "last column": drawn(5, 6, S[:, -1]),
    "columns in a row, full height": drawn(5, 6, S[:, 1:4]),
    "columns apart, full height": drawn(5, 6, S[:, 1], S[:, 3]),
    "bottom of one column, top of the next": drawn(5, 6, S[3:, 2], S[:2, 3]),
    "row": drawn(5, 6, S[2, :]),
    "checkerboard": CHECKER == 0,
    "checkerboard, first pixel off": CHECKER == 1,
    "ring": RING,
    "frame of one pixel, on": drawn(1, 1, S[:]),
    "frame of one pixel, off": drawn(1, 1),
    "one row": drawn(1, 9, S[0, 2:4], S[0, 7:]),
    "one column": drawn(9, 1, S[2:4], S[7:]),
    "more than 32767 pixels": drawn(300, 400, S[10:290, 20:390]),
    "noise": RNG.random((37, 53)) < 0.5,
    "sparse noise": RNG.random((100, 80)) < 0.01,
}


def masks_of(bitmap):
    return InstanceMasks.from_dense(bitmap[None])


def tight(bitmap):
    """The bitmap's tight crop and its left and top."""
    if not bitmap.any():
        return bitmap[:0, :0], (0, 0)
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    x, y = int(columns[0]), int(rows[0])
    return bitmap[y : rows[-1] + 1, x : columns[-1] + 1], (x, y)


@pytest.fixture(params=BITMAPS.values(), ids=BITMAPS.keys())
def bitmap(request):
    return request.param


def test_rle_is_that_of_pycocotools(bitmap):
    assert masks_of(bitmap).rle() == [coco(bitmap)]


def test_rle_gives_the_same_runs_back(bitmap):
    read = InstanceMasks.from_rle([coco(bitmap)], bitmap.shape)
    assert read.size == bitmap.shape
    np.testing.assert_array_equal(read.edges[0], masks_of(bitmap).edges[0])


def test_rle_from_a_crop(bitmap):
    crop, corner = tight(bitmap)
    assert InstanceMasks.from_crops([crop], [corner], bitmap.shape).rle() == [coco(bitmap)]


def test_area(bitmap):
    area_px = masks_of(bitmap).area_px
    assert area_px.tolist() == [bitmap.sum()]
    assert area_px.dtype == np.int64


def test_crop_is_the_tight_box(bitmap):
    crop, corner = masks_of(bitmap).crop(0)
    expected, expected_corner = tight(bitmap)
    np.testing.assert_array_equal(crop, expected)
    assert crop.dtype == bool
    assert crop.shape == expected.shape
    assert corner == expected_corner


def test_dense_gives_the_bitmap_back(bitmap):
    dense = masks_of(bitmap).dense()
    assert dense.dtype == bool
    np.testing.assert_array_equal(dense, bitmap[None])


def test_the_crop_s_border_leaves_no_trace(bitmap):
    """A crop larger than the mask, up to the whole frame, gives the same edges as a tight one."""
    height = bitmap.shape[0]
    crop, (x, y) = tight(bitmap)
    expected = crop_edges(crop, x, y, height)
    left, top = x // 2, y // 2
    np.testing.assert_array_equal(crop_edges(bitmap[top:, left:], left, top, height), expected)
    assert (np.diff(expected) > 0).all()  # increasing: no run is empty, none touches the next


@pytest.mark.parametrize("seed", range(20))
def test_random_crops_in_random_frames(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 60, 2).tolist()
    crops, corners, bitmaps = [], [], []
    for _ in range(5):
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        crop = rng.random((h, w)) < rng.choice([0.02, 0.5, 0.98])
        bitmaps.append(np.zeros((height, width), bool))
        bitmaps[-1][y : y + h, x : x + w] = crop
        crops.append(crop)
        corners.append((x, y))
    masks = InstanceMasks.from_crops(crops, corners, (height, width))
    assert masks.rle() == [coco(bitmap) for bitmap in bitmaps]
    np.testing.assert_array_equal(masks.dense(), np.stack(bitmaps))
    assert masks.area_px.tolist() == [int(bitmap.sum()) for bitmap in bitmaps]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_bitmaps_of_other_types(dtype):
    assert InstanceMasks.from_dense(RING[None].astype(dtype)).rle() == [coco(RING)]


def test_crops_that_are_views():
    assert InstanceMasks.from_dense(RING[None, ::-1, ::-1]).rle() == [coco(RING[::-1, ::-1])]


@pytest.mark.parametrize("size", [(2000, 3000), (3000, 2000)], ids=str)
def test_large_frames(size):
    bitmap = np.zeros(size, bool)
    bitmap[100:1900, 7:1999] = True
    assert masks_of(bitmap).rle() == [coco(bitmap)]


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        pytest.param(slice(1, 3), [1, 2], id="slice"),
        pytest.param(slice(None, None, -1), [3, 2, 1, 0], id="reversed"),
        pytest.param([2, 0, 2], [2, 0, 2], id="positions"),
        pytest.param(np.array([-1]), [3], id="negative"),
        pytest.param(np.array([True, False, False, True]), [0, 3], id="boolean"),
        pytest.param(np.zeros(0, np.int64), [], id="none"),
    ],
)
def test_selection(index, chosen):
    bitmaps = RNG.random((4, 8, 9)) < 0.5
    masks = InstanceMasks.from_dense(bitmaps)[index]
    assert len(masks) == len(chosen)
    assert masks.size == (8, 9)
    np.testing.assert_array_equal(masks.dense(), bitmaps[chosen])


def test_no_masks():
    masks = InstanceMasks.from_dense(np.zeros((0, 8, 9), bool))
    assert (len(masks), masks.rle()) == (0, [])
    assert masks.area_px.shape == (0,)
    assert masks.dense().shape == (0, 8, 9)


def moved(bitmap, dx, dy, size):
    """The bitmap in a frame of another size, pixel by pixel."""
    result = np.zeros(size, bool)
    for y, x in np.argwhere(bitmap):
        if 0 <= y + dy < size[0] and 0 <= x + dx < size[1]:
            result[y + dy, x + dx] = True
    return result


def assert_same(masks, bitmap):
    """Equal pixels have equal edges, and so the same RLE."""
    assert masks.size == bitmap.shape
    np.testing.assert_array_equal(masks.edges[0], masks_of(bitmap).edges[0])
    assert masks.edges[0].dtype == np.int64
    assert masks.rle() == [coco(bitmap)]


def test_shifted_by_nothing(bitmap):
    assert_same(masks_of(bitmap).shifted(0, 0, bitmap.shape), bitmap)


@pytest.mark.parametrize("seed", range(8))
def test_shifted_and_cropped_are_exact(seed):
    rng = np.random.default_rng(seed)
    for _ in range(40):
        height, width, *size = rng.integers(1, 12, 4).tolist()
        bitmap = rng.random((height, width)) < rng.choice([0.1, 0.5, 0.9, 1])
        dx, dy = rng.integers(-12, 13, 2).tolist()
        assert_same(masks_of(bitmap).shifted(dx, dy, tuple(size)), moved(bitmap, dx, dy, size))
        box = (-dx, -dy, size[1] - dx, size[0] - dy)
        assert_same(masks_of(bitmap).cropped(box), moved(bitmap, dx, dy, size))


def test_tiles_are_moved_back_into_their_frame():
    frame = RNG.random((40, 50)) < 0.5
    halves = [(0, 0, 25, 40), (25, 0, 50, 40)]
    left, right = (masks_of(frame).cropped(box).shifted(*box[:2], (40, 50)) for box in halves)
    joined = InstanceMasks.concatenate([left, right])
    assert len(joined) == 2
    np.testing.assert_array_equal(joined.dense().any(axis=0), frame)
    assert not joined.dense().all(axis=0).any()


def test_shifted_keeps_the_order_of_several_masks():
    bitmaps = np.stack([drawn(5, 6, S[1, 1]), drawn(5, 6), drawn(5, 6, S[2:4, 3])])
    shifted = InstanceMasks.from_dense(bitmaps).shifted(1, 1, (5, 6))
    np.testing.assert_array_equal(shifted.dense(), [moved(b, 1, 1, (5, 6)) for b in bitmaps])


@pytest.mark.parametrize("box", [(2, 2, 2, 5), (2, 2, 5, 1)])
def test_cropped_refuses_a_box_without_pixels(box):
    with pytest.raises(ValueError, match="has no pixels"):
        masks_of(drawn(5, 6)).cropped(box)


def test_concatenate_refuses_masks_of_different_frames():
    with pytest.raises(ValueError, match=r"expected one size, got \[\(5, 6\), \(6, 5\)\]"):
        InstanceMasks.concatenate([masks_of(drawn(6, 5)), masks_of(drawn(5, 6))])
    with pytest.raises(ValueError, match="expected one size, got"):
        InstanceMasks.concatenate([])


def test_crops_and_corners_must_be_as_many():
    with pytest.raises(ValueError, match="argument"):
        InstanceMasks.from_crops([RING], [], RING.shape)


def pasted(probs, boxes, size):
    """What paste() gives with the arithmetic of Detectron2, and Detectron2's own bitmaps."""
    torch = pytest.importorskip("torch")
    from detectron2.layers.mask_ops import _do_paste_mask, paste_masks_in_image

    probs, boxes = torch.as_tensor(probs).float(), torch.as_tensor(boxes).float()

    def sample(mask, x, y):
        values = []
        for i in range(len(boxes)):
            if not (mask == i).any():
                continue
            bitmap = _do_paste_mask(probs[i : i + 1, None], boxes[i : i + 1], *size, False)[0][0]
            values.append(bitmap.numpy()[y[mask == i], x[mask == i]])
        asked.append(len(mask))
        return np.concatenate(values) if values else np.zeros(0, np.float32)

    asked = []
    masks = paste(probs.numpy(), boxes.numpy(), size, sample)
    return masks, paste_masks_in_image(probs, boxes, size, threshold=0.5).numpy(), sum(asked)


HALF = np.full((28, 28), 0.5)
HEADS = {
    "noise": RNG.random((28, 28)),
    "blob": np.hypot(*np.mgrid[-1:1:28j, -1:1:28j]) < 0.9,
    "soft blob": np.exp(-2 * np.square(np.mgrid[-1:1:28j, -1:1:28j]).sum(0)),
    "all": np.ones((28, 28)),
    "none": np.zeros((28, 28)),
    "half": HALF,
    "half but for the last digit": HALF + RNG.uniform(-1e-7, 1e-7, (28, 28)),
    "half in the middle": np.where(np.indices((28, 28)).sum(0) % 9 < 3, 0.5, RNG.random((28, 28))),
    "not a number": np.full((28, 28), np.nan),
    "14 cells": RNG.random((14, 14)),
    "56 cells": RNG.random((56, 56)),
}
BOXES = np.array(
    [
        [10.3, 20.6, 70.1, 90.2],
        [0, 0, 160, 120],  # the frame
        [30, 40, 58, 68],  # a cell a pixel
        [5.2, 5.9, 5.3, 110],  # thin
        [7, 50.4, 150, 50.6],  # flat
        [70.4, 3.3, 70.9, 3.8],  # within a pixel
        [100.5, 80.5, 159.99, 119.99],  # up to the last pixel
        [-30.5, -20, 60, 170],  # beyond the frame
    ],
    np.float32,
)


@pytest.mark.detectron2
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_paste_has_the_pixels_of_detectron2(head):
    masks, bitmaps, _ = pasted(np.repeat(head[None], len(BOXES), 0), BOXES, (120, 160))
    np.testing.assert_array_equal(masks.dense(), bitmaps)
    assert masks.rle() == [coco(bitmap) for bitmap in bitmaps]


@pytest.mark.detectron2
@pytest.mark.parametrize("size", [(33, 47), (480, 640), (1080, 1920)], ids=str)
def test_paste_asks_for_few_pixels(size):
    rng = np.random.default_rng(1)
    boxes = np.sort(rng.uniform(0, 1, (40, 2, 2)) * size[::-1], axis=1).reshape(40, 4)
    masks, bitmaps, asked = pasted(rng.random((40, 28, 28)), boxes, size)
    assert masks.rle() == [coco(bitmap) for bitmap in bitmaps]
    assert asked < bitmaps.sum() / 100


def test_paste_of_nothing():
    masks = paste(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (8, 9), None)
    assert (len(masks), masks.size) == (0, (8, 9))
