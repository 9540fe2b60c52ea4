"""Which speed-ups a model gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.runnables.options import engine_of
from pipeline.runnables.speedups.exact.proposals import choose_first, normalize_in_place
from pipeline.runnables.speedups.rounding.onednn import fuse
from pipeline.runnables.speedups.rounding.openvino import compile_parts
from pipeline.runnables.speedups.rounding.pooling import pool_by_sums
from pipeline.runnables.speedups.rounding.rearrange import (
    channels_last,
    fold_norms,
    lower_precision,
    parts,
)
from pipeline.runnables.state.stateless import Doubt

if TYPE_CHECKING:
    from pipeline.runnables.detectron2 import Detectron2


def apply_speedups(
    runnable: Detectron2, module: Any, doubts: Sequence[Doubt]
) -> Callable[[], dict[str, str]]:
    """Rearrange a model for speed, in place.

    Args:
        runnable: Says the device, the engine, the precision and the share of the cores.
        module: Its model in eval mode, into which nobody has put hooks or the like.
        doubts: Modules that are not known to be stateless.

    Returns:
        A function that says what computes each part.
    """
    import torch

    engine = engine_of(runnable)
    module.requires_grad_(False)
    fold_norms(module)
    choose_first(module)
    summed = runnable.device == "cpu" and pool_by_sums(module)
    if engine == "openvino":
        return compile_parts(
            module,
            runnable.precision,
            forwards=int(runnable.forwards),
            threads=runnable.threads or 0,
            cache=runnable.cache,
            doubts=doubts,
        )
    normalize_in_place(module)  # into pixels of adjacent channels; OpenVINO takes planes
    channels_last(module, pools_planes=not summed)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(runnable.precision)
    if runnable.device == "cpu" and engine == "torch":
        fuse(module, dtype)
    used = {}
    for part in parts(module):
        used[part.name] = engine
        if dtype is not None and not part.in_fp32:
            part.replace(lambda part, call: lower_precision(part, call, dtype))
        if engine == "compile":
            part.replace(lambda _, call: torch.compile(call, dynamic=True))
    return lambda: used
