"""Runs convolutions and linear layers in bfloat16 or float16."""

from __future__ import annotations

from typing import Any

from pipeline.runnables.speedups.parts import Part, parts
from pipeline.runnables.speedups.patching import Call, wrap_method


def lower_precision(module: Any, dtype: Any) -> bool:
    """Compute the parts of a model in ``dtype``, except those that must stay in float32.

    Args:
        module: A Detectron2 model in eval mode.
        dtype: ``torch.bfloat16`` or ``torch.float16``.

    Returns:
        Whether the model has parts that were changed.
    """
    lowered = [part for part in parts(module) if not part.in_fp32]
    for part in lowered:
        part.wrap(lambda part, call: _lowered(part, call, dtype))
    return bool(lowered)


def _lowered(part: Part, call: Call, dtype: Any) -> Call:
    """Return the call under autocast to ``dtype``, with float32 outputs.

    The weights are converted here, once, not in each call.
    """
    import torch
    from torch import nn
    from torch.utils._pytree import tree_map

    device = next(part.owner.parameters()).device.type
    kept = part.fp32_layers if dtype is torch.bfloat16 else []  # float16 has 3 bits more
    exempt = {layer for module in kept for layer in module.modules()}
    for layer in part.owner.modules():
        is_lowered = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        if is_lowered and layer not in exempt:
            layer.to(dtype)

    def in_fp32(forward: Call) -> Call:
        def run(x: Any) -> Any:
            with torch.autocast(device, enabled=False):
                return forward(x.float())

        return run

    for module in kept:
        wrap_method(module, "forward", in_fp32)

    def run(*args: Any) -> Any:
        with torch.autocast(device, dtype, cache_enabled=False):
            return tree_map(lambda tensor: tensor.float(), call(*args))

    return run
