"""Groups frames into the batches of a forward, as a function of the input alone."""

from __future__ import annotations

from collections.abc import Hashable

from pipeline.engine.items import Item

_WINDOW = 4  # batches: frames of equal shape are grouped among so many batches' worth of frames
_WINDOW_BYTES = 512e6  # of images; not an option, because it changes the composition of batches


class Batches:
    """Groups frames by shape, as a function of the input alone: timing must not change results.

    The input is divided into windows of consecutive places. A frame has one place. An asset without
    frames has one too, because otherwise a window could grow without bound. Frames of equal shape
    within a window share batches, in order of first appearance. Incomplete batches are due at the
    end of the window. A window of large images is shorter, because all its frames wait in memory.

    Args:
        size: The largest number of frames per forward.
        by_shape: Also group frames of equal shape that are not neighbors.
    """

    def __init__(self, size: int, by_shape: bool) -> None:
        self.window = _WINDOW * size
        self._size, self._by_shape = size, by_shape
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

    def rest(self) -> list[list[Item]]:
        """Return the incomplete batches, which are due at the end."""
        rest, self._groups = list(self._groups.values()), {}
        return rest

    def _shape(self, item: Item) -> Hashable:
        if item.prepared is not None:
            return tuple(item.prepared.shape)
        # a runnable without ``prepare`` pads the frames of a batch itself, or runs them one by one
        return item.frame.size if self._by_shape and item.frame is not None else None
