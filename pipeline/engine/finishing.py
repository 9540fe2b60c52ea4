"""Threads that convert model outputs to predictions, and the queue to the writer thread.

The writer thread is the caller's, often the main thread, where a signal handler can raise
between any two instructions. So it never holds a Python lock that other threads need: it only uses
``SimpleQueue``, whose operations are atomic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any

from pipeline.engine.items import Item
from pipeline.engine.prefetch import join
from pipeline.errors import DeviceLostError, InferenceError
from pipeline.failures import failed
from pipeline.records import Frame, Predictions


class Results:
    """The queue of items to write, bounded in bytes and in number.

    An empty queue accepts an item of any size. One thread at a time calls ``put``; one thread calls
    ``get``. The last item is followed by ``None`` or by the error that ended the run.
    """

    def __init__(self, max_bytes: int, max_items: int) -> None:
        self._max_bytes, self._max_items = max_bytes, max_items
        self._items: SimpleQueue[Item | BaseException | None] = SimpleQueue()
        # one True per consumed item; False means closed
        self._acks: SimpleQueue[bool] = SimpleQueue()
        self._sizes: deque[int] = deque()  # only used by the thread that adds items
        self._bytes = 0

    def put(self, item: Item | BaseException | None) -> bool:
        """Add an item as soon as it fits; return False if the queue is closed first."""
        nbytes = item.nbytes if isinstance(item, Item) else 0
        while not self._acks.empty() or not self._fits(nbytes):
            if not self._acks.get():
                return False
            self._bytes -= self._sizes.popleft()
        self._sizes.append(nbytes)
        self._bytes += nbytes
        self._items.put(item)
        return True

    def get(self) -> Item | None:
        """Return the next item once it is finished; ``None`` at the end.

        Raises:
            BaseException: The error that ended the run.
        """
        item = self._items.get()
        self._acks.put(True)
        if isinstance(item, BaseException):
            raise item
        if item is not None and item.finished is not None:
            item.finished.get()
        if item is not None and item.crash is not None:
            raise item.crash
        return item

    def close(self) -> None:
        """Unblock ``put``, which then returns False."""
        self._acks.put(False)

    def _fits(self, nbytes: int) -> bool:
        room = len(self._sizes) < self._max_items and self._bytes + nbytes <= self._max_bytes
        return room or not self._sizes


class Finishers:
    """Threads that convert a model's outputs to predictions.

    Args:
        finish: ``PipelinedRunnable.finish``.
        threads: The number of threads; with 0, the caller of ``add`` finishes the item.
    """

    def __init__(self, finish: Callable[[Frame, Any], Predictions], threads: int) -> None:
        self._finish = finish
        self._items: SimpleQueue[Item | None] = SimpleQueue()
        self._stopped = False
        self._threads = [
            Thread(target=self._work, name=f"finish-{i}", daemon=True) for i in range(threads)
        ]

    def add(self, item: Item) -> None:
        """Queue an item; ``item.finished`` is signaled when it is finished."""
        if self._threads:
            self._items.put(item)
        else:
            self._finish_item(item)

    def __enter__(self) -> Finishers:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the threads, even if only some of them were started."""
        self.stop()
        join(self._threads)

    def stop(self) -> None:
        """Stop the threads; items still queued are dropped."""
        self._stopped = True
        for _ in self._threads:
            self._items.put(None)

    def _work(self) -> None:
        while (item := self._items.get()) is not None and not self._stopped:
            self._finish_item(item)

    def _finish_item(self, item: Item) -> None:
        started = perf_counter()
        try:
            if item.frame is not None:
                predictions = self._finish(item.frame, item.prepared)
                check_size(item, predictions)
                item.predictions = predictions
        except Exception as exc:
            if isinstance(exc, DeviceLostError):
                item.crash = exc
            else:
                item.error = failed(InferenceError, exc, item.asset, "inference")
        except BaseException as exc:  # raised again where the results are written
            item.crash = exc
        item.prepared = None
        item.seconds["finish"] = perf_counter() - started
        if item.finished is not None:
            item.finished.put(None)


def check_size(item: Item, predictions: Any) -> None:
    """Raise ValueError unless these are predictions of the item's frame."""
    size = item.frame.size if item.frame is not None else None
    found = predictions.image_size if isinstance(predictions, Predictions) else None
    if found != size:
        got = f"size {found}" if found else type(predictions).__name__
        raise ValueError(
            f"the runnable must return Predictions of size {size} for this frame, got {got}"
        )
