"""Copies all tensors of a batch from the device to the host at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def fetch(tree: Any) -> tuple[Any, Any]:
    """Copy every CUDA tensor in nested lists, tuples and dicts to the host, without waiting.

    Returns:
        The same tree with the tensors on the host, and a CUDA event after which their content is
        valid; ``None`` if nothing had to be copied.
    """
    import torch
    from torch.utils._pytree import tree_flatten, tree_unflatten

    leaves, spec = tree_flatten(tree)
    on_device = [
        i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.is_cuda
    ]
    if not on_device:
        return tree, None
    tensors = [leaves[i] for i in on_device]
    packed = pack(tensors)
    host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    event = torch.cuda.current_stream(packed.device).record_event()
    for i, tensor in zip(on_device, unpack(host, tensors), strict=True):
        leaves[i] = tensor
    return tree_unflatten(leaves, spec), event


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate the bytes of tensors: uint8 ``(bytes,)``, the widest dtypes first."""
    import torch

    ordered = [tensors[i] for i in _widest_first(tensors)]
    return torch.cat([tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in ordered])


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return views of packed bytes, with the dtypes and shapes of the tensors in ``like``."""
    views: dict[int, Tensor] = {}
    start = 0
    for i in _widest_first(like):
        end = start + like[i].numel() * like[i].element_size()
        views[i] = packed[start:end].view(like[i].dtype).view(like[i].shape)
        start = end
    return [views[i] for i in range(len(like))]


def _widest_first(tensors: Sequence[Tensor]) -> list[int]:
    # so that the offset of every tensor is a multiple of its element size
    return sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
