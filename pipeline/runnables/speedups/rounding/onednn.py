"""Convolutions and linear layers on the CPU, in one pass with the sum or the ReLU behind them.

Torch calls oneDNN so only from compiled models, but the operators take any shape and need no
compiling. The numbers are those of the separate steps, or within rounding.
"""

from __future__ import annotations

import copy
import logging
import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)
# oneDNN writes code for each layer and shape, and by default keeps that of 1,024: pictures of any
# format come to some 30 shapes once they are padded, and to half as many again, so a small model
# would spend a tenth of its time on writing anew. Each takes 0.1 MB.
_KERNELS_KEPT = 2048


def fuse(module: Any, dtype: Any = None) -> bool:
    """Have a model on the CPU compute them so.

    Args:
        module: A Detectron2 model in eval mode, its norms folded; in channels_last format, or
            what is gained is lost to copies.
        dtype: What some of its weights will be converted to from float32.

    Returns:
        Whether this torch can, on this CPU; otherwise the model is left as it is.
    """
    from detectron2.modeling.backbone.fpn import FPN
    from detectron2.modeling.backbone.resnet import ResNet
    from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
    from detectron2.modeling.roi_heads import Res5ROIHeads
    from torch import float32, nn

    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS_KEPT))  # read once
    if not all(map(_works, {float32, dtype or float32})):
        return False
    for layer in module.modules():
        kind = type(layer)
        if _is_known(layer):
            layer.forward = _Convolution(layer)
        elif kind is nn.Linear:
            layer.forward = partial(_linear, layer)
        elif kind is ResNet:
            for stage in layer.stages:
                _fuse_stage(stage)
        elif kind is Res5ROIHeads:
            _fuse_stage(layer.res5)
        elif kind is FPN and layer._fuse_type == "sum":
            _fuse_pyramid(layer)
        elif kind is StandardRPNHead:
            _fuse_proposals(layer)
    return True


@cache
def _works(dtype: Any) -> bool:
    """Whether torch has the operators, which it does not document, and they do what is wanted.

    In bfloat16 they need a CPU with AVX-512, where the plain layers only are slow without.
    """
    import torch
    from torch import nn

    last = torch.channels_last
    x = torch.linspace(-1, 1, 64).view(1, 4, 4, 4).to(dtype, memory_format=last)
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # whose numbers are others' to draw
        layer = nn.Conv2d(4, 4, 3, padding=1, dtype=dtype).to(memory_format=last)
        flat = nn.Linear(64, 2, dtype=dtype)
        convolve, plain = _Convolution(layer), layer(x)
        try:
            pairs = [
                (convolve(x), plain),
                (convolve(x, cut=True), plain.relu()),
                (convolve(x, onto=x.clone()), plain + x),
                (convolve(x, onto=x.clone(), cut=True), (plain + x).relu()),
                (_linear(flat, x.flatten(1)), flat(x.flatten(1))),
            ]
        except (AttributeError, RuntimeError, TypeError) as exc:
            _LOG.info("layers are not fused: %s", exc)
            return False
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    return all(torch.allclose(got, want, atol=tolerance) for got, want in pairs)


def _is_known(layer: Any) -> bool:
    from detectron2.layers import Conv2d
    from torch import nn
    from torch.nn import functional

    activation = getattr(layer, "activation", None)
    return (
        type(layer) in (Conv2d, nn.Conv2d)
        and getattr(layer, "norm", None) is None
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and (activation is None or activation is functional.relu or type(activation) is nn.ReLU)
    )


class _Convolution:
    """Does what the ``forward`` of a convolution without norm does, in its weights' precision.

    Args:
        layer: Detectron2's or torch's ``Conv2d``.
    """

    def __init__(self, layer: Any) -> None:
        self.weight, self.bias = layer.weight, layer.bias  # whose dtype may change yet
        self.cuts = getattr(layer, "activation", None) is not None
        self.how = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups

    def __call__(self, x: Tensor, *, cut: bool = False, onto: Tensor | None = None) -> Tensor:
        """Convolve.

        Args:
            x: ``(N, C, H, W)``.
            cut: Whether a ReLU comes last.
            onto: Is added before that; of the result's shape, and it becomes the result.
        """
        import torch

        weight, bias = self.weight, self.bias
        x = _as(weight, x)
        found: Tensor
        if onto is None:
            relu = "relu" if cut or self.cuts else "none"
            found = torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, *self.how, relu, [], ""
            )
            return found
        # in bfloat16 it cannot cut for all shapes
        at_once = cut and weight.dtype is torch.float32
        last = "relu" if at_once else None
        found = torch.ops.mkldnn._convolution_pointwise_.binary(
            _as(weight, onto), x, weight, bias, *self.how, "add", 1.0, last, [], None
        )
        return found.relu_() if cut and not at_once else found


def _linear(layer: Any, x: Tensor) -> Tensor:
    """Do what ``nn.Linear.forward`` does."""
    import torch

    weight = layer.weight
    x = _as(weight, x)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, "none", [], "")
    return found


def _as(weight: Tensor, x: Tensor) -> Tensor:
    # ``to`` lets go of Python's lock even if it has nothing to do, and must then wait for it
    return x if x.dtype is weight.dtype else x.to(weight.dtype)


def _fuse_stage(stage: Any) -> None:
    """Fuse the blocks of a stage of which only the last one's output is used."""
    from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock

    follows = False
    for block in stage:
        is_known = type(block) in (BasicBlock, BottleneckBlock)
        follows = is_known and _fuse_block(block, follows=follows)


def _fuse_block(block: Any, *, follows: bool) -> bool:
    """Have a residual block add its input, and cut the sum, in its last convolution.

    Args:
        block: Detectron2's.
        follows: Whether its input is what another such block has made, and is needed nowhere else.

    Returns:
        Whether it does.
    """
    names = [name for name in ("conv1", "conv2", "conv3") if hasattr(block, name)]
    layers = [getattr(block, name) for name in names]
    if not all(map(_is_known, [*layers, *filter(None, [block.shortcut])])):
        return False
    *inner, last = map(_Convolution, layers)
    shortcut = block.shortcut and _Convolution(block.shortcut)

    def forward(x: Tensor) -> Tensor:
        within = x
        for convolve in inner:
            within = convolve(within, cut=True)
        kept = x if follows or shortcut else x.clone()
        past = shortcut(x) if shortcut else kept
        return last(within, onto=past, cut=True)

    block.forward = forward
    return True


def _fuse_pyramid(pyramid: Any) -> None:
    """Have a feature pyramid add the coarser map in its lateral convolutions."""
    from torch.nn import functional

    if not all(map(_is_known, pyramid.lateral_convs)):
        return
    laterals = [_Convolution(layer) for layer in pyramid.lateral_convs]  # coarsest first

    def forward(x: Tensor) -> dict[str, Tensor]:
        found = pyramid.bottom_up(x)
        maps: list[Tensor] = []
        merged: Tensor | None = None
        for name, lateral, output in zip(
            reversed(pyramid.in_features), laterals, pyramid.output_convs, strict=True
        ):
            if merged is not None:
                merged = functional.interpolate(merged, scale_factor=2.0, mode="nearest")
            merged = lateral(found[name], onto=merged)
            maps.insert(0, output(merged))
        names = pyramid._out_features
        if (top := pyramid.top_block) is not None:
            named = dict(zip(names, maps, strict=False)) | found  # as FPN: the backbone's first
            maps += top(named[top.in_feature])
        return dict(zip(names, maps, strict=True))

    pyramid.forward = forward


def _fuse_proposals(head: Any) -> None:
    """Have a head of proposals compute logits and deltas, few channels each, in one pass."""
    import torch
    from torch import nn

    layers = head.objectness_logits, head.anchor_deltas
    if not all(map(_is_known, layers)):
        return
    merged = copy.deepcopy(layers[0])
    for name in ("weight", "bias"):
        value = torch.cat([getattr(layer, name) for layer in layers])
        setattr(merged, name, nn.Parameter(value, requires_grad=False))
    convolve = _Convolution(merged)
    channels = [layer.out_channels for layer in layers]

    def forward(features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        found = [torch.split(convolve(head.conv(x)), channels, 1) for x in features]
        return [logits for logits, _ in found], [deltas for _, deltas in found]

    head.forward = forward
