"""The same model, faster: norms folded into convolutions, memory formats, lower precision.

A model is taken apart at the calls that do nearly all of its arithmetic and nothing else; what
lies between them (proposals, pooling, suppression) stays Detectron2's own code in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Call = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A call that can be replaced: tensors in, tensors out, nested in lists, tuples and dicts.

    Attributes:
        name: Of the part, unique in its model.
        owner: The ``nn.Module`` with its weights.
        method: Of the owner.
        per_roi: Whether its inputs are pooled regions, ``(N, C, fixed, fixed)`` or ``(N, C)``,
            rather than maps ``(N, C, H, W)`` of any size.
    """

    name: str
    owner: Any
    method: str
    per_roi: bool = False

    @property
    def in_fp32(self) -> bool:
        """Whether it stays in float32 when the others do not.

        Which proposals there are hangs on the last digits of their scores: on 40 scenes, 2.3 % of
        the boxes of ``model=shapes`` differ with that head in bfloat16, 0.8 % with it in float32.
        The box head is a small part of the work.
        """
        return self.name == "rpn_head" or self.name.startswith("box_head")

    @property
    def fp32_layers(self) -> list[Any]:
        """Modules within it that stay in float32 when the others do not.

        All maps that proposals and boxes are read off pass through the FPN's lateral layers, a
        small part of the work: 99.3 % of the boxes of ``model=shapes`` pair with them in float32
        (600 scenes), 98.7 % without (360). Stem, ``res2`` or output layers add nothing to it.
        """
        if self.name != "backbone":
            return []
        return list(getattr(self.owner, "lateral_convs", ()))

    def replace(self, change: Callable[[Part, Call], Call]) -> None:
        """Put ``change(part, call)`` in the place of the call, in this instance only."""
        setattr(self.owner, self.method, change(self, getattr(self.owner, self.method)))


def parts(module: Any) -> Iterator[Part]:
    """Yield the parts of a model of Detectron2's own architectures; of another, none."""
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


def fold_norms(module: Any) -> int:
    """Fold each batch norm into the convolution before it, in place.

    In eval mode a norm is ``x * scale + shift`` a channel, which weights and bias take in. Computed
    in float64 and rounded once.

    Args:
        module: A Detectron2 model in eval mode.

    Returns:
        How many were folded.
    """
    from detectron2.layers import Conv2d

    # a subclass may do something else between the two
    found = [conv for conv in module.modules() if type(conv) is Conv2d and _constant(conv.norm)]
    for conv in found:
        _fold(conv)
    return len(found)


def _constant(norm: Any) -> bool:
    from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
    from torch import nn

    kind = type(norm)  # a subclass may do something else
    if kind is FrozenBatchNorm2d:
        return True
    known = kind in (nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm)
    return known and not norm.training and norm.running_var is not None and norm.affine


def _fold(conv: Any) -> None:
    import torch
    from torch import nn

    norm = conv.norm
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    start = 0 if conv.bias is None else conv.bias.double()
    shift = norm.bias.double() + (start - norm.running_mean.double()) * scale
    weight = conv.weight.double() * scale.reshape(-1, 1, 1, 1)
    dtype = conv.weight.dtype
    with torch.no_grad():
        conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        conv.bias = nn.Parameter(shift.to(dtype), requires_grad=False)
    conv.norm = None


def lower_precision(part: Part, call: Call, dtype: Any) -> Call:
    """Return the call under autocast to ``dtype``, with float32 out.

    The weights are converted once, here, rather than in each call.
    """
    import torch
    from torch import nn
    from torch.utils._pytree import tree_map

    device = next(part.owner.parameters()).device.type
    kept = part.fp32_layers if dtype is torch.bfloat16 else []  # float16 is eight times as fine
    exempt = {layer for module in kept for layer in module.modules()}
    for layer in part.owner.modules():
        lowered = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        if lowered and layer not in exempt:
            layer.to(dtype)

    def in_fp32(forward: Call) -> Call:
        def run(x: Any) -> Any:
            with torch.autocast(device, enabled=False):
                return forward(x.float())

        return run

    for module in kept:
        module.forward = in_fp32(module.forward)

    def run(*args: Any) -> Any:
        with torch.autocast(device, dtype, cache_enabled=False):
            return tree_map(lambda tensor: tensor.float(), call(*args))

    return run


def channels_last(module: Any, *, pools_planes: bool) -> None:
    """Compute convolutions on pixels of adjacent channels: in 0.9 of their time (CPU).

    Args:
        module: A Detectron2 model in eval mode.
        pools_planes: Whether it pools regions from planes, and would copy each map into planes
            for each call of a pooler.
    """
    import torch

    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:  # of a 3D convolution it is 5, for which there is no such format
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    heads = getattr(module, "roi_heads", None)
    if not pools_planes or heads is None or not any(parts(module)):
        return
    whole = heads.forward

    def from_planes(images: Any, features: dict[str, Any], *rest: Any) -> Any:
        return whole(images, {name: each.contiguous() for name, each in features.items()}, *rest)

    heads.forward = from_planes
