"""The parts of a model that do nearly all of its arithmetic: backbone and heads.

Each part is a method that takes and returns only tensors. Everything between the parts (proposals,
pooling, NMS) is still Detectron2's code in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.runnables.speedups.patching import Call, wrap_method


@dataclass(frozen=True, slots=True)
class Part:
    """A replaceable method: tensors in, tensors out, nested in lists, tuples and dicts.

    Attributes:
        name: Name of the part, unique in its model.
        owner: The ``nn.Module`` that has the weights.
        method: Name of the owner's method.
        per_roi: Whether the inputs are pooled regions, ``(N, C, fixed, fixed)`` or ``(N, C)``,
            rather than maps ``(N, C, H, W)`` of any size.
    """

    name: str
    owner: Any
    method: str
    per_roi: bool = False

    @property
    def call(self) -> Call:
        """The function that currently computes the part."""
        call: Call = getattr(self.owner, self.method)
        return call

    @property
    def in_fp32(self) -> bool:
        """Whether the part stays in float32 when other parts do not.

        The last digits of the scores decide which proposals are kept: on 40 scenes, 2.3 % of the
        boxes of ``model=shapes`` differ with the RPN head in bfloat16, 0.8 % with it in float32.
        The box head is a small part of the work.
        """
        return self.name == "rpn_head" or self.name.startswith("box_head")

    @property
    def fp32_layers(self) -> list[Any]:
        """Modules within the part that stay in float32 when other parts do not.

        All maps that proposals and boxes are computed from pass through the FPN's lateral layers,
        which are a small part of the work: with them in float32, 99.3 % of the boxes of
        ``model=shapes`` pair (600 scenes), otherwise 98.7 % (360). The stem, ``res2`` and the
        output layers make no further difference.
        """
        if self.name != "backbone":
            return []
        return list(getattr(self.owner, "lateral_convs", ()))

    def wrap(self, wrapper: Callable[[Part, Call], Call]) -> None:
        """Replace the method of this owner with ``wrapper(part, method)``."""
        wrap_method(self.owner, self.method, lambda call: wrapper(self, call))


def parts(module: Any) -> Iterator[Part]:
    """Yield the parts of a model of one of Detectron2's own architectures; else nothing."""
    from detectron2.modeling import (
        GeneralizedRCNN,
        PanopticFPN,
        RetinaNet,
        SemanticSegmentor,
    )
    from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
    from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
    from detectron2.modeling.proposal_generator.rpn import StandardRPNHead

    if type(module) not in (GeneralizedRCNN, PanopticFPN, RetinaNet, SemanticSegmentor):
        return
    yield Part("backbone", module.backbone, "forward")
    rpn_head = getattr(getattr(module, "proposal_generator", None), "rpn_head", None)
    if type(rpn_head) is StandardRPNHead:
        yield Part("rpn_head", rpn_head, "forward")
    if type(getattr(module, "head", None)) is RetinaNetHead:
        yield Part("head", module.head, "forward")
    if type(getattr(module, "sem_seg_head", None)) is SemSegFPNHead:
        yield Part("sem_seg_head", module.sem_seg_head, "layers")
    if hasattr(module, "roi_heads"):
        yield from _roi_parts(module.roi_heads)


def _roi_parts(heads: Any) -> Iterator[Part]:
    from detectron2.modeling.roi_heads import (
        CascadeROIHeads,
        FastRCNNConvFCHead,
        KRCNNConvDeconvUpsampleHead,
        MaskRCNNConvUpsampleHead,
        Res5ROIHeads,
        StandardROIHeads,
    )

    if type(heads) not in (StandardROIHeads, CascadeROIHeads, Res5ROIHeads):
        return
    if type(heads) is Res5ROIHeads:
        yield Part("res5", heads.res5, "forward", per_roi=True)
    box_heads = getattr(heads, "box_head", ())
    for i, head in enumerate(box_heads if type(heads) is CascadeROIHeads else [box_heads]):
        if type(head) is FastRCNNConvFCHead:
            yield Part(f"box_head_{i}", head, "forward", per_roi=True)
    if type(getattr(heads, "mask_head", None)) is MaskRCNNConvUpsampleHead:
        yield Part("mask_head", heads.mask_head, "layers", per_roi=True)
    if type(getattr(heads, "keypoint_head", None)) is KRCNNConvDeconvUpsampleHead:
        yield Part("keypoint_head", heads.keypoint_head, "layers", per_roi=True)
