"""Which frames share a forward."""

from __future__ import annotations

from collections.abc import Hashable

from pipeline.engine.items import Item

_WINDOW = 4  # batches' worth of frames among which equal shapes find one another
_WINDOW_BYTES = 512e6  # of pictures, whatever the batch; no option, for it moves results


class Batches:
    """Groups frames by shape: a function of the input alone, or results would depend on timing.

    The input is cut into windows of consecutive places (a frame has one, and so has an asset that
    holds none, or windows could grow without end). Frames of equal shape within a window go
    together in order of first appearance; what is left over goes at the window's end, which large
    pictures bring about earlier, since they all wait for it.

    Args:
        size: Frames that share a forward, at most.
        by_shape: Skip over frames of other shapes; otherwise only neighbours go together.
    """

    def __init__(self, size: int, by_shape: bool) -> None:
        self.window = _WINDOW * size
        self._size, self._by_shape = size, by_shape
        self._groups: dict[Hashable, list[Item]] = {}
        self._places = 0
        self._nbytes = 0

    def add(self, item: Item) -> list[list[Item]]:
        """Take the next item; return the batches that are due."""
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
        """Return the batches that are not full, which are due at the end."""
        rest, self._groups = list(self._groups.values()), {}
        return rest

    def _shape(self, item: Item) -> Hashable:
        if item.prepared is not None:
            return tuple(item.prepared.shape)
        # a runnable that takes frames as they are pads them itself, or takes them one by one
        return item.frame.size if self._by_shape and item.frame is not None else None
