"""Concurrent forwards on a CPU: how many, and with how many threads each.

Parts of a forward use a single core (pooling, proposals, NMS) or are too small to be
divided among cores. Another frame's forward can use the remaining cores meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import local

_thread = local()
_MAX_FORWARDS = 4  # each has its own activations: close to 1 GB for Mask R-CNN R50-FPN


def divide_threads(forwards: int | str, threads: int) -> tuple[int, int]:
    """Divide torch's threads among forwards.

    Args:
        forwards: Number of forwards, or ``auto``: one per thread, at most four.
        threads: Number of threads that torch may use.

    Returns:
        The number of forwards, and the number of threads per forward.
    """
    if not isinstance(forwards, int):
        forwards = max(1, min(_MAX_FORWARDS, threads))
    return forwards, max(1, threads // forwards)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Set torch's number of threads, for this thread and for those that start in the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Slots:
    """Assigns a slot number to each concurrent forward, because each needs separate resources.

    Args:
        n: Number of slots. If all are in use, the next forward waits for a free slot.
    """

    def __init__(self, n: int) -> None:
        self._free: SimpleQueue[int] = SimpleQueue()
        for number in range(n):
            self._free.put(number)

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Hold a slot during the block; ``current_slot`` returns its number."""
        _thread.slot = self._free.get()
        try:
            yield
        finally:
            self._free.put(_thread.slot)
            _thread.slot = 0


def current_slot() -> int:
    """Return the number of this thread's slot, from 0."""
    return int(getattr(_thread, "slot", 0))
