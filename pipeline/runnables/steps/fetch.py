"""From the device to the host: all tensors of a batch in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def fetch(tree: Any) -> tuple[Any, Any]:
    """Bring every CUDA tensor in nested lists, tuples and dicts to the host, without waiting.

    Returns:
        The same tree with the tensors on the host, and an event after which they are filled;
        ``None`` when nothing had to be copied.
    """
    import torch
    from torch.utils._pytree import tree_flatten, tree_unflatten

    leaves, spec = tree_flatten(tree)
    there = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.is_cuda]
    if not there:
        return tree, None
    tensors = [leaves[i] for i in there]
    packed = pack(tensors)
    host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    event = torch.cuda.current_stream(packed.device).record_event()
    for i, tensor in zip(there, unpack(host, tensors), strict=True):
        leaves[i] = tensor
    return tree_unflatten(leaves, spec), event


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Lay tensors of any dtype end to end: uint8 ``(bytes,)``, the widest dtypes first."""
    import torch

    ordered = [tensors[i] for i in _widest_first(tensors)]
    return torch.cat([tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in ordered])


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Undo ``pack``: views of ``packed`` with the dtypes and shapes of ``like``, in its order."""
    views: dict[int, Tensor] = {}
    start = 0
    for i in _widest_first(like):
        end = start + like[i].numel() * like[i].element_size()
        views[i] = packed[start:end].view(like[i].dtype).view(like[i].shape)
        start = end
    return [views[i] for i in range(len(like))]


def _widest_first(tensors: Sequence[Tensor]) -> list[int]:
    # so that every tensor begins at a multiple of its own element's size
    return sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
