"""Folds batch norms into convolutions."""

from __future__ import annotations

from typing import Any


def fold_norms(module: Any) -> int:
    """Fold each batch norm into the convolution before it, in place.

    In eval mode a norm is ``x * scale + shift`` per channel, which becomes part of the weights and
    the bias. Computed in float64 and rounded once.

    Args:
        module: A Detectron2 model in eval mode.

    Returns:
        The number of norms that were folded.
    """
    from detectron2.layers import Conv2d

    # a subclass may do something between convolution and norm
    found = [conv for conv in module.modules() if type(conv) is Conv2d and _is_constant(conv.norm)]
    for conv in found:
        _fold(conv)
    return len(found)


def _is_constant(norm: Any) -> bool:
    from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
    from torch import nn

    kind = type(norm)  # a subclass may compute something else
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
