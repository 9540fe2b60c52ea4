"""What lies behind the device: finishing its outputs, and the way to the thread that writes.

The thread that writes is the caller's, often the main one, in which a signal may raise between any
two instructions. So here it never holds a lock of Python's that the others need: it only uses
``SimpleQueue``, whose operations are whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any

from pipeline.engine.ahead import join
from pipeline.engine.items import Item
from pipeline.errors import DeviceLostError, InferenceError
from pipeline.failures import failed
from pipeline.records import Frame, Predictions


class Results:
    """What waits to be written, bounded in bytes and in number; one item always fits.

    One thread puts, one gets. After the last item comes ``None``, or what ended the run.
    """

    def __init__(self, max_bytes: int, max_items: int) -> None:
        self._max_bytes, self._max_items = max_bytes, max_items
        self._items: SimpleQueue[Item | BaseException | None] = SimpleQueue()
        self._taken: SimpleQueue[bool] = SimpleQueue()  # one for each taken; False: no more will be
        self._sizes: deque[int] = deque()  # known to the thread that puts only
        self._bytes = 0

    def put(self, item: Item | BaseException | None) -> bool:
        """Put as soon as it fits, unless it was closed: returns whether the item went in."""
        nbytes = item.nbytes if isinstance(item, Item) else 0
        while not self._taken.empty() or not self._fits(nbytes):
            if not self._taken.get():
                return False
            self._bytes -= self._sizes.popleft()
        self._sizes.append(nbytes)
        self._bytes += nbytes
        self._items.put(item)
        return True

    def get(self) -> Item | None:
        """Take the next, finished; waits for it. ``None`` is the end.

        Raises:
            BaseException: What ended the run.
        """
        item = self._items.get()
        self._taken.put(True)
        if isinstance(item, BaseException):
            raise item
        if item is not None and item.finished is not None:
            item.finished.get()
        if item is not None and item.crash is not None:
            raise item.crash
        return item

    def close(self) -> None:
        """Have the thread that puts give up."""
        self._taken.put(False)

    def _fits(self, nbytes: int) -> bool:
        room = len(self._sizes) < self._max_items and self._bytes + nbytes <= self._max_bytes
        return room or not self._sizes


class Finishers:
    """Threads that make predictions of a model's outputs.

    Args:
        finish: ``PipelinedRunnable.finish``.
        threads: How many; with none, whoever brings an item finishes it.
    """

    def __init__(self, finish: Callable[[Frame, Any], Predictions], threads: int) -> None:
        self._finish = finish
        self._items: SimpleQueue[Item | None] = SimpleQueue()
        self._stopped = False
        self._threads = [
            Thread(target=self._work, name=f"finish-{i}", daemon=True) for i in range(threads)
        ]

    def take(self, item: Item) -> None:
        """Finish an item soon; ``item.finished`` tells when."""
        if self._threads:
            self._items.put(item)
        else:
            self._finished(item)

    def __enter__(self) -> Finishers:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End them, those that were started."""
        self.stop()
        join(self._threads)

    def stop(self) -> None:
        """Have them leave undone what is not begun."""
        self._stopped = True
        for _ in self._threads:
            self._items.put(None)

    def _work(self) -> None:
        while (item := self._items.get()) is not None and not self._stopped:
            self._finished(item)

    def _finished(self, item: Item) -> None:
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
    if getattr(predictions, "image_size", None) != size:
        raise ValueError(
            f"the runnable gave {type(predictions).__name__} of size "
            f"{getattr(predictions, 'image_size', None)} for a frame of size {size}"
        )
