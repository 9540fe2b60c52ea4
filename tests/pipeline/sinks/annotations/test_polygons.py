from __future__ import annotations

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.masks import InstanceMasks
from pipeline.sinks.annotations.polygons import Region, Ring, joined, trace

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
SIZE = (20, 24)


def filled(rings: list[Ring]) -> np.ndarray:
    """Rasterize as COCO does: the union of polygons."""
    rles = coco_mask.frPyObjects([ring.ravel().tolist() for ring in rings], *SIZE)
    return np.asarray(coco_mask.decode(coco_mask.merge(rles)), bool)


def pixels(region: Region) -> np.ndarray:
    mask = filled([region.outline])
    return mask & ~filled(list(region.holes)) if region.holes else mask


def random_mask(seed: int) -> InstanceMasks:
    rng = np.random.default_rng(seed)
    mask = rng.random(SIZE) < rng.choice([0.05, 0.3, 0.5, 0.8, 1])
    if seed % 2:
        mask = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return InstanceMasks.from_dense(mask[None])


def area(ring: Ring) -> int:
    x, y = ring.T
    return abs(int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) // 2


@pytest.mark.parametrize("seed", range(60))
def test_any_mask_comes_back_exactly(seed: int) -> None:
    masks = random_mask(seed)
    regions = trace(*masks.crop(0))
    union = np.logical_or.reduce([pixels(region) for region in regions])
    (dense,) = masks.dense()
    assert np.array_equal(union, dense)
    areas = [area(region.outline) - sum(map(area, region.holes)) for region in regions]
    assert sum(areas) == dense.sum()
    assert [area(region.outline) for region in regions] == sorted(
        (area(region.outline) for region in regions), reverse=True
    )
    assert np.array_equal(filled([joined(regions)]), dense)


def test_corners_are_where_pixels_meet() -> None:
    (region,) = trace(np.ones((1, 1), bool), (0, 0))
    assert region.outline.tolist() == [[0, 0], [0, 1], [1, 1], [1, 0]]
    (region,) = trace(np.ones((2, 3), bool), (5, 7))
    assert region.outline.tolist() == [[5, 7], [5, 9], [8, 9], [8, 7]]


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    (region,) = trace(np.eye(3, dtype=bool), (0, 0))
    assert area(region.outline) == 3


def test_no_pixels() -> None:
    assert trace(np.zeros((0, 0), bool), (0, 0)) == []


def test_a_tolerance_leaves_few_corners() -> None:
    disk = np.zeros((200, 200), np.uint8)
    cv2.circle(disk, (100, 100), 80, 1, -1)
    (exact,), (simple,) = trace(disk > 0, (0, 0)), trace(disk > 0, (0, 0), 1.5)
    assert len(simple.outline) < len(exact.outline) / 8
    assert abs(area(simple.outline) / area(exact.outline) - 1) < 0.03
    (square,) = trace(np.ones((1, 1), bool), (0, 0), 50)
    assert len(square.outline) == 4  # it would vanish
