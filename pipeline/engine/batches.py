"""Groups frames into the batches of a forward, as a function of the input alone."""

from __future__ import annotations

from collections.abc import Hashable
from time import monotonic

from pipeline.engine.items import Item

_WINDOW = 4  # batches: frames of equal shape are grouped among so many batches' worth of frames
_WINDOW_BYTES = 512e6  # of images; not an option, because it changes the composition of batches


class Batches:
    """Groups frames by shape, as a function of the input alone: timing must not change results.

    The input is divided into windows of consecutive places. A frame has one place. An asset without
    frames has one too, because otherwise a window could grow without bound. Frames of equal shape
    within a window share batches, in order of first appearance. Incomplete batches are due at the
    end of the window. A window of large images is shorter, because all its frames wait in memory.

    With ``max_wait_s``, timing does change the batches: the answer to a request must not wait for
    the end of a window.

    Args:
        size: The largest number of frames per forward.
        by_shape: Also group frames of equal shape that are not neighbors.
        max_wait_s: Seconds that an incomplete batch may wait for more frames; ``None``: until the
            end of the window.
    """

    def __init__(self, size: int, by_shape: bool, max_wait_s: float | None = None) -> None:
        self.window = _WINDOW * size
        self._size, self._by_shape, self._max_wait_s = size, by_shape, max_wait_s
        self._waits_since_s = 0.0  # when the oldest incomplete batch was started
        self._groups: dict[Hashable, list[Item]] = {}
        self._places = 0
        self._nbytes = 0

    def add(self, item: Item) -> list[list[Item]]:
        """Add the next item; return the batches that are due."""
        due: list[list[Item]] = []
        if item.pending:
            shape = self._shape(item)
            if not self._by_shape and shape not in self._groups:
                due = self.rest()
            if not self._groups:
                self._waits_since_s = monotonic()
            group = self._groups.setdefault(shape, [])
            group.append(item)
            if len(group) == self._size:
                due.append(self._groups.pop(shape))
        self._places += item.counts
        self._nbytes += item.frame.image.nbytes if item.frame is not None else 0
        if self._places >= self.window or self._nbytes >= _WINDOW_BYTES:
            self._places = self._nbytes = 0
            due += self.rest()
        return due

    def patience_s(self) -> float | None:
        """Return how long the incomplete batches may still wait; ``None``: without limit."""
        if self._max_wait_s is None or not self._groups:
            return None
        return max(0.0, self._waits_since_s + self._max_wait_s - monotonic())

    def rest(self) -> list[list[Item]]:
        """Return the incomplete batches: at the end, or when they have waited long enough."""
        rest, self._groups = list(self._groups.values()), {}
        return rest

    def _shape(self, item: Item) -> Hashable:
        if item.prepared is not None:
            return tuple(item.prepared.shape)
        # a runnable without ``prepare`` pads the frames of a batch itself, or runs them one by one
        return item.frame.size if self._by_shape and item.frame is not None else None
