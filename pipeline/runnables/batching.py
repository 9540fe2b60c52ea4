"""Limits batches to the memory of a CUDA device, and splits them by input shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_MAX_FRAMES = 16  # more frames per forward are not faster, and delay the first result
_SHARE = 0.8  # of the free memory; the rest is reserved for other shapes and fragmentation


def measure_batch_size(forward: Callable[[], object], device: str) -> int:
    """Measure the peak memory of one forward, and return how many frames fit at once.

    Args:
        forward: Runs one frame of the largest shape.
        device: A CUDA device.

    Returns:
        A power of two from 1 to 16.
    """
    import torch

    forward()  # allocates what is needed only once, such as the libraries' workspaces
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    forward()
    peak = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return power_of_two(int(_SHARE * free / max(peak, 1)))


def power_of_two(n: int) -> int:
    """Return the largest power of two that is at most ``n``, from 1 to 16."""
    return 1 << (min(max(n, 1), _MAX_FRAMES).bit_length() - 1)


class BatchSplitter:
    """Calls a function on batches, and halves the batch size when the device's memory runs out.

    Attributes:
        max_items: Largest number of items per call, ``None`` for no limit. Once halved, the limit
            is not raised again.
    """

    def __init__(self, max_items: int | None = None) -> None:
        self.max_items = max_items

    def __call__(self, call: Callable[[Sequence[T]], list[Any]], items: Sequence[T]) -> list[Any]:
        """Return the results of all items, in order.

        Raises:
            torch.OutOfMemoryError: A single item does not fit.
        """
        results: list[Any] = []
        while len(results) < len(items):
            chunk = items[len(results) :][: self.max_items]
            done = self._attempt(call, chunk)
            if done is None:
                self.max_items = len(chunk) // 2
            else:
                results += done
        return results

    def _attempt(
        self, call: Callable[[Sequence[T]], list[Any]], chunk: Sequence[T]
    ) -> list[Any] | None:
        import torch

        try:
            return call(chunk)
        except torch.OutOfMemoryError:
            if len(chunk) == 1:
                raise
        # after the except block, because the exception no longer refers to the call's tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def group_equal(shapes: Sequence[object]) -> Iterator[list[int]]:
    """Yield the indices of equal shapes, ordered by the first of each group."""
    indices: dict[object, list[int]] = {}
    for i, shape in enumerate(shapes):
        indices.setdefault(shape, []).append(i)
    yield from indices.values()
