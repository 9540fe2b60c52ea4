"""Compiles the parts of a model with ``torch.compile``."""

from __future__ import annotations

from typing import Any

from pipeline.runnables.speedups.parts import parts


def compile_with_torch(module: Any) -> bool:
    """Compile a model's parts for inputs of any size; each is compiled in its first call.

    Args:
        module: A Detectron2 model in eval mode.

    Returns:
        Whether the model has such parts.
    """
    import torch

    found = list(parts(module))
    for part in found:
        part.wrap(lambda _, call: torch.compile(call, dynamic=True))
    return bool(found)
