"""Fuses convolutions with the addition or ReLU that follows them, with oneDNN on the CPU.

Torch itself uses these oneDNN operators only in compiled models, but they accept any shape and
need no compiling. Results equal those of the separate operations within rounding.
"""

from __future__ import annotations

import copy
import logging
import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pipeline.runnables.speedups.patching import replace_method

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)
# oneDNN generates a kernel per layer and shape, and keeps 1,024 by default. Images of all formats
# have about 45 different shapes after padding, so a small model would spend a tenth of its time on
# generating kernels again. Each takes 0.1 MB.
_MAX_CACHED_KERNELS = 2048


def fuse_layers(module: Any, dtype: Any = None) -> bool:
    """Compute a model's convolutions and linear layers with oneDNN's fused operators.

    Args:
        module: A Detectron2 model on the CPU, in eval mode, with its norms folded. It should be in
            channels_last format, because copies would otherwise take as long as is saved.
        dtype: The type to which some of its float32 weights will be converted later.

    Returns:
        Whether torch has these operators on this CPU. If not, the model does not change.
    """
    from detectron2.modeling.backbone.fpn import FPN
    from detectron2.modeling.backbone.resnet import ResNet
    from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
    from detectron2.modeling.roi_heads import Res5ROIHeads
    from torch import float32, nn

    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_MAX_CACHED_KERNELS))  # read once
    if not all(map(_works, {float32, dtype or float32})):
        return False
    for layer in module.modules():
        kind = type(layer)
        if _is_known(layer):
            replace_method(layer, "forward", _Convolution(layer))
        elif kind is nn.Linear:
            replace_method(layer, "forward", partial(_linear, layer))
        elif kind is ResNet:
            for stage in layer.stages:
                _fuse_stage(stage)
        elif kind is Res5ROIHeads:
            _fuse_stage(layer.res5)
        elif kind is FPN and layer._fuse_type == "sum":
            _fuse_pyramid(layer)
        elif kind is StandardRPNHead:
            _fuse_rpn_head(layer)
    return True


@cache
def _works(dtype: Any) -> bool:
    """Return whether torch has the operators, which are undocumented, and computes correctly.

    In bfloat16 they need a CPU with AVX-512. The separate operations work without, but slowly.
    """
    import torch
    from torch import nn

    last = torch.channels_last
    x = torch.linspace(-1, 1, 64).view(1, 4, 4, 4).to(dtype, memory_format=last)
    with (
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
    ):  # does not change the caller's random numbers
        layer = nn.Conv2d(4, 4, 3, padding=1, dtype=dtype).to(memory_format=last)
        flat = nn.Linear(64, 2, dtype=dtype)
        convolve, plain = _Convolution(layer), layer(x)
        try:
            pairs = [
                (convolve(x), plain),
                (convolve(x, relu=True), plain.relu()),
                (convolve(x, add_to=x.clone()), plain + x),
                (convolve(x, add_to=x.clone(), relu=True), (plain + x).relu()),
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
    """Computes a convolution without norm, in the precision of its weights.

    Args:
        layer: Detectron2's or torch's ``Conv2d``.
    """

    def __init__(self, layer: Any) -> None:
        self.weight, self.bias = layer.weight, layer.bias  # the dtype may change later
        self.has_relu = getattr(layer, "activation", None) is not None
        self.geometry = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups

    def __call__(self, x: Tensor, *, relu: bool = False, add_to: Tensor | None = None) -> Tensor:
        """Convolve.

        Args:
            x: ``(N, C, H, W)``.
            relu: Whether to apply a ReLU at the end.
            add_to: Added to the convolution before the ReLU. It has the shape of the result, which
                is written into it.
        """
        import torch

        weight, bias = self.weight, self.bias
        x = _as(weight, x)
        found: Tensor
        if add_to is None:
            activation = "relu" if relu or self.has_relu else "none"
            found = torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, *self.geometry, activation, [], ""
            )
            return found
        # in bfloat16 the operator has no ReLU for some shapes
        has_fused_relu = relu and weight.dtype is torch.float32
        last = "relu" if has_fused_relu else None
        found = torch.ops.mkldnn._convolution_pointwise_.binary(
            _as(weight, add_to), x, weight, bias, *self.geometry, "add", 1.0, last, [], None
        )
        return found.relu_() if relu and not has_fused_relu else found


def _linear(layer: Any, x: Tensor) -> Tensor:
    """Compute what ``nn.Linear.forward`` does."""
    import torch

    weight = layer.weight
    x = _as(weight, x)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, "none", [], "")
    return found


def _as(weight: Tensor, x: Tensor) -> Tensor:
    # even without a conversion, ``to`` releases Python's lock and must wait for it afterwards
    return x if x.dtype is weight.dtype else x.to(weight.dtype)


def _fuse_stage(stage: Any) -> None:
    """Fuse the blocks of a stage. Only the output of the last block is used elsewhere."""
    from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock

    may_overwrite = False
    for block in stage:
        is_known = type(block) in (BasicBlock, BottleneckBlock)
        may_overwrite = is_known and _fuse_block(block, may_overwrite=may_overwrite)


def _fuse_block(block: Any, *, may_overwrite: bool) -> bool:
    """Fuse the addition and the ReLU of a residual block into its last convolution.

    Args:
        block: One of Detectron2's residual blocks.
        may_overwrite: Whether the input was computed by another fused block and is not used
            elsewhere.

    Returns:
        Whether it was fused.
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
            within = convolve(within, relu=True)
        kept = x if may_overwrite or shortcut else x.clone()
        residual = shortcut(x) if shortcut else kept
        return last(within, add_to=residual, relu=True)

    return replace_method(block, "forward", forward)


def _fuse_pyramid(pyramid: Any) -> None:
    """Fuse the addition of the coarser map into a feature pyramid's lateral convolutions."""
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
            merged = lateral(found[name], add_to=merged)
            maps.insert(0, output(merged))
        names = pyramid._out_features
        if (top := pyramid.top_block) is not None:
            named = (
                dict(zip(names, maps, strict=False)) | found
            )  # as in FPN, the backbone's maps win
            maps += top(named[top.in_feature])
        return dict(zip(names, maps, strict=True))

    replace_method(pyramid, "forward", forward)


def _fuse_rpn_head(head: Any) -> None:
    """Compute an RPN head's logits and deltas, which have few channels each, in one convolution."""
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

    replace_method(head, "forward", forward)
