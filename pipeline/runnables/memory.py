"""How many frames a forward on a CUDA device can take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_LARGEST = 16  # more frames a forward gain nothing, and make the first result wait
_SHARE = 0.8  # of the free memory; the rest is for other shapes, and for what the allocator splits


def frames_that_fit(forward: Callable[[], object], device: str) -> int:
    """Measure one forward's peak of memory, and tell how many such fit at once.

    Args:
        forward: Runs one frame of the largest shape.
        device: A CUDA device.

    Returns:
        A power of two from 1 to 16.
    """
    import torch

    forward()  # what is made once, such as libraries' own memory, is no frame's
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    forward()
    peak = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return power_of_two(int(_SHARE * free / max(peak, 1)))


def power_of_two(n: int) -> int:
    """Return the largest power of two that is at most ``n``, from 1 to 16."""
    return 1 << (min(max(n, 1), _LARGEST).bit_length() - 1)


class Halving:
    """Calls a function on at most so many items at once, half as many when memory runs out.

    Attributes:
        most: Items a call, ``None`` for all; halved for good when they do not fit.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most

    def __call__(self, call: Callable[[Sequence[T]], list[Any]], items: Sequence[T]) -> list[Any]:
        """Return the results of all items, in order.

        Raises:
            torch.OutOfMemoryError: A single item does not fit.
        """
        results: list[Any] = []
        while len(results) < len(items):
            chunk = items[len(results) :][: self.most]
            done = self._attempt(call, chunk)
            if done is None:
                self.most = len(chunk) // 2
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
        # only now has the failed call's memory no owner any more
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def groups(shapes: Sequence[object]) -> Iterator[list[int]]:
    """Yield the positions of equal shapes, in order of their first."""
    sharing: dict[object, list[int]] = {}
    for i, shape in enumerate(shapes):
        sharing.setdefault(shape, []).append(i)
    yield from sharing.values()
