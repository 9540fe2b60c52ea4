"""How many images are in progress, and how long they take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from time import monotonic


class Pace:
    """Counts what is in progress, and estimates how long it takes; on one thread.

    Attributes:
        in_flight: Number of items that wait or are in progress.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self._seconds_per_item = 0.0  # moving average

    @property
    def retry_after_s(self) -> int:
        """Seconds after which there may be room again."""
        return max(1, ceil(self.in_flight * self._seconds_per_item))

    @contextmanager
    def counted(self, n_items: int = 1) -> Iterator[None]:
        """Count items as in flight while the block runs."""
        self.in_flight += n_items
        started, n_before = monotonic(), self.in_flight  # these items are finished, too
        try:
            yield
        finally:
            took_s = (monotonic() - started) / n_before
            self._seconds_per_item += 0.1 * (took_s - self._seconds_per_item)
            self.in_flight -= n_items
