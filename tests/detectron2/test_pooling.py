"""Regions pooled as sums of pixels against Detectron2's own pooling."""

from __future__ import annotations

from typing import Any

import pytest
from random_model import ARCHITECTURES, RandomModel

from pipeline.runnables.speedups.rounding import pooling
from pipeline.runnables.speedups.rounding.pooling import (
    pool_by_sums,
    pools_by_sums,
    to_channels_last,
)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.detectron2

CHANNELS = 5
SIZE = (160, 224)  # of the image


def pooler(output: Any, scales: list[float], ratio: int, kind: str) -> Any:
    from detectron2.modeling.poolers import ROIPooler

    return ROIPooler(output, scales, ratio, kind)


def maps(scales: list[float], n: int) -> list[Any]:
    torch.manual_seed(3)
    return [torch.randn(n, CHANNELS, *(int(side * scale) for side in SIZE)) for scale in scales]


def boxes(n: int) -> Any:
    """Return boxes of all sizes and shapes, some past the edges, some without area."""
    from detectron2.structures import Boxes

    torch.manual_seed(n)
    middle = torch.rand(60, 2) * torch.tensor([SIZE[1], SIZE[0]])
    half = torch.rand(60, 2) ** 3 * 160
    half[:6, 0] = 0
    half[3:9, 1] = 0
    half[9:12] = torch.tensor([150.0, 0.3])
    return Boxes(torch.cat([middle - half, middle + half], dim=1))


def pooled(pooler: Any, maps: list[Any], boxes: list[Any]) -> Any:
    return pooling._pool(pooler, maps, boxes)


@pytest.mark.parametrize("kind", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize(
    ("output", "scales"),
    [(7, [0.25, 0.125, 0.0625, 0.03125]), (14, [0.0625]), ((3, 5), [0.125])],
)
def test_pooled_as_detectron2_does(output: Any, scales: list[float], ratio: int, kind: str) -> None:
    theirs = pooler(output, scales, ratio, kind)
    given, found = maps(scales, 2), [boxes(1), boxes(2)]
    want = theirs(given, found)
    assert want.abs().max() > 1
    for layout in (torch.contiguous_format, torch.channels_last):
        laid_out = [each.contiguous(memory_format=layout) for each in given]
        got = pooled(theirs, laid_out, found)
        assert got.shape == want.shape
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pooler(7, [0.25, 0.125], 0, "ROIAlignV2")
    given, found = maps([0.25, 0.125], 1), [boxes(1)]
    want = pooled(theirs, given, found)
    monkeypatch.setattr(pooling, "_MAX_PIXELS", 1)
    assert torch.equal(pooled(theirs, given, found), want)


def test_no_region_and_regions_that_are_not_finite() -> None:
    from detectron2.structures import Boxes

    theirs, given = pooler(7, [0.25, 0.125], 0, "ROIAlignV2"), maps([0.25, 0.125], 1)
    assert pooled(theirs, given, [Boxes(torch.empty(0, 4))]).shape == (0, CHANNELS, 7, 7)
    finite = [[3.0, 4.0, 50.0, 60.0]]
    for wrong in (float("nan"), float("inf"), -float("inf")):
        got = pooled(theirs, given, [Boxes(torch.tensor([*finite, [0.0, 0.0, wrong, wrong]]))])
        assert torch.equal(got[:1], pooled(theirs, given, [Boxes(torch.tensor(finite))]))
        assert not got[1].any()


@pytest.mark.parametrize("n", [1, 3])
def test_to_channels_last(n: int) -> None:
    given = torch.randn(n, CHANNELS, 6, 7)
    turned = to_channels_last(given)
    assert torch.equal(turned, given)
    assert turned.is_contiguous(memory_format=torch.channels_last)
    assert to_channels_last(turned) is turned


@pytest.mark.parametrize("architecture", ["mask_rcnn", "mask_rcnn_c4", "cascade_mask_rcnn"])
def test_models_that_are_changed(architecture: str) -> None:
    _, module = RandomModel(ARCHITECTURES[architecture]).load("cpu")
    assert not pools_by_sums(module)
    assert pool_by_sums(module)
    assert pools_by_sums(module)


def test_models_that_are_not_changed() -> None:
    _, module = RandomModel(ARCHITECTURES["retinanet"]).load("cpu")
    assert not pool_by_sums(module)
    opts = ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool")
    _, module = RandomModel(ARCHITECTURES["faster_rcnn"], opts).load("cpu")
    assert not pool_by_sums(module)
    assert not pools_by_sums(module)
