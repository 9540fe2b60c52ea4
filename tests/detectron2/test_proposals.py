"""Faster proposals and inputs are bit-identical to Detectron2's."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from random_model import ARCHITECTURES, RandomModel

from pipeline.runnables.speedups.exact.inputs import normalize_with_one_copy
from pipeline.runnables.speedups.exact.proposals import decode_best_proposals

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.detectron2

SMALL = ("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 144)
SIZES = [[(90, 120)], [(90, 120), (100, 77)], [(64, 64), (64, 64)]]


def inputs(sizes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    return [{"image": torch.randint(0, 256, (3, *size)).float()} for size in sizes]


@pytest.mark.parametrize("architecture", ["faster_rcnn", "mask_rcnn_c4"])
def test_proposals(architecture: str) -> None:
    _, module = RandomModel(ARCHITECTURES[architecture], SMALL, spread=3).load("cpu")
    with torch.inference_mode():
        batches = [module.preprocess_image(inputs(sizes)) for sizes in SIZES]
        found = [(batch, module.backbone(batch.tensor)) for batch in batches]
        want = [module.proposal_generator(*each)[0] for each in found]
        assert decode_best_proposals(module)
        got = [module.proposal_generator(*each)[0] for each in found]
    for ours, theirs in zip(chain(*got), chain(*want), strict=True):
        assert len(ours) > 20
        assert ours.image_size == theirs.image_size
        assert torch.equal(ours.proposal_boxes.tensor, theirs.proposal_boxes.tensor)
        assert torch.equal(ours.objectness_logits, theirs.objectness_logits)


@pytest.mark.parametrize("architecture", ["faster_rcnn", "mask_rcnn_c4", "panoptic_fpn"])
def test_inputs(architecture: str) -> None:
    _, module = RandomModel(ARCHITECTURES[architecture], SMALL).load("cpu")
    want = [module.preprocess_image(inputs(sizes)) for sizes in SIZES]
    given = [inputs(sizes) for sizes in SIZES]
    assert normalize_with_one_copy(module)
    got = [module.preprocess_image(each) for each in given]
    for ours, theirs, each, sizes in zip(got, want, given, SIZES, strict=True):
        assert torch.equal(ours.tensor, theirs.tensor)
        assert ours.image_sizes == theirs.image_sizes == sizes
        for item, before in zip(each, inputs(sizes), strict=True):
            assert torch.equal(item["image"], before["image"])


def test_other_models_do_not_change() -> None:
    _, module = RandomModel(ARCHITECTURES["retinanet"], SMALL).load("cpu")
    assert not decode_best_proposals(module)
    assert not normalize_with_one_copy(module)
    _, module = RandomModel(ARCHITECTURES["faster_rcnn"], SMALL).load("cpu")
    module.proposal_generator.anchor_generator = torch.nn.Identity()
    assert not decode_best_proposals(module)
