"""Modifications of a model, such as hooks, take effect: speed-ups do not bypass them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_model import CLASS_NAMES, picture, tiny_predictor

from pipeline.records import Categories, Frame
from pipeline.runnables.detectron2 import Detectron2

pytestmark = pytest.mark.detectron2


def subclass(path: str, **methods: Any) -> Callable[[Any], None]:
    """Return a change of the module at a path to a subclass of its class."""

    def change(model: Any) -> None:
        module = model.get_submodule(path)
        module.__class__ = type("Own", (type(module),), methods)

    return change


def doubled(module: Any, *args: Any) -> Any:
    found = type(module).__mro__[1].forward(module, *args)
    return found * 1.25


def hook(path: str) -> Callable[[Any], None]:
    return lambda m: m.get_submodule(path).register_forward_hook(lambda _, __, found: found * 2)


def halve_proposals(model: Any) -> None:
    whole = model.proposal_generator.predict_proposals
    model.proposal_generator.predict_proposals = lambda *args: [
        each[: len(each) // 2] for each in whole(*args)
    ]


def limit(model: Any) -> None:
    whole = model.forward
    model.forward = lambda inputs: [{"instances": each["instances"][:3]} for each in whole(inputs)]


def limit_by_hook(model: Any) -> None:
    model.register_forward_hook(lambda _, __, found: [{"instances": found[0]["instances"][:3]}])


def add_state(model: Any) -> None:
    """Add a block that keeps its last output, which the next block must not overwrite."""
    import torch

    class Keeps(torch.nn.Identity):
        kept: Any = None

        def forward(self, x: Any) -> Any:
            before, self.kept = self.kept, x
            return x if before is None or before.shape != x.shape else x + before

    stage = model.backbone.bottom_up.res2
    stage.insert(1, Keeps())


CHANGES: dict[str, Callable[[Any], None]] = {
    "a hook on a convolution": hook("backbone.bottom_up.res2.1.conv2"),
    "a hook on a norm": hook("backbone.bottom_up.res3.0.conv1.norm"),
    "a hook on the anchors' scores": hook("proposal_generator.rpn_head.objectness_logits"),
    "another convolution": subclass("backbone.bottom_up.res2.1.conv2", forward=doubled),
    "another lateral": subclass("backbone.fpn_lateral3", forward=doubled),
    "another norm": subclass("backbone.bottom_up.res3.0.conv1.norm", forward=doubled),
    "another pooler": subclass("roi_heads.box_pooler", forward=doubled),
    "a method of the proposals": halve_proposals,
    "a method of the model": limit,
    "a hook on the model": limit_by_hook,
    "a block with state": add_state,
}


class Changed:
    name = "changed"
    categories = Categories(thing_names=tuple(CLASS_NAMES))

    def __init__(self, change: Callable[[Any], None]) -> None:
        self.change = change

    def load(self, device: str) -> Any:
        predictor = tiny_predictor()
        self.change(predictor.model)
        return predictor.cfg, predictor.model


@pytest.mark.parametrize("name", CHANGES)
def test_as_default_predictor(name: str) -> None:
    changed = Changed(CHANGES[name])
    predictor, images = tiny_predictor(), [picture(seed=i) for i in range(3)]
    changed.change(predictor.model)
    want = [predictor(each)["instances"] for each in images]
    with Detectron2(changed, "cpu", forwards=2) as runnable:  # type: ignore[arg-type]
        got = [runnable.predict([Frame(each, "x")])[0] for each in images]
    for one, other in zip(got, want, strict=True):
        assert len(one) == len(other) > 0
        np.testing.assert_allclose(one.boxes, other.pred_boxes.tensor.numpy(), atol=0.05)
        np.testing.assert_allclose(one.scores, other.scores.numpy(), atol=1e-3)
