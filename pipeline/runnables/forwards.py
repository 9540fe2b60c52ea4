"""How many forwards run at once on a CPU, and on how many threads each.

The parts of one forward that use a single core (pooling, proposals, suppression), and those too
small to be shared out, leave the other cores idle; another frame's forward does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import local

_here = local()
_MOST = 4  # each holds its own activations: for Mask R-CNN R50-FPN close to a gigabyte


def at_once(wanted: int | str, threads: int) -> tuple[int, int]:
    """Share out the threads.

    Args:
        wanted: How many forwards, or ``auto``: one a thread, four at most.
        threads: That torch may use.

    Returns:
        How many forwards at once, and threads for each: a function of these two alone.
    """
    forwards = wanted if isinstance(wanted, int) else max(1, min(_MOST, threads))
    return forwards, max(1, threads // forwards)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Have torch use so many threads, here and on threads that begin meanwhile."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Lanes:
    """Numbers for forwards that run at once, for what each of them needs of its own.

    Args:
        n: How many; one more waits until another has ended.
    """

    def __init__(self, n: int) -> None:
        self._free: SimpleQueue[int] = SimpleQueue()
        for number in range(n):
            self._free.put(number)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have a lane, which ``lane()`` tells, while the block runs."""
        _here.lane = self._free.get()
        try:
            yield
        finally:
            self._free.put(_here.lane)
            _here.lane = 0


def lane() -> int:
    """Return the number of the forward on this thread, from 0."""
    return int(getattr(_here, "lane", 0))
