"""What the device's threads do: forwards, batch by batch, one or several at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from queue import SimpleQueue
from threading import Lock
from time import perf_counter
from typing import Any, cast

from pipeline.engine.batches import Batches
from pipeline.engine.behind import Finishers, Results, check_size
from pipeline.engine.items import Item
from pipeline.errors import AssetError, DeviceLostError, InferenceError
from pipeline.failures import failed
from pipeline.protocols import PipelinedRunnable, Runnable


class Device:
    """Takes items through the model; their order stays, though batches are not made of neighbours.

    Which frames share a forward is decided by one thread at a time, in input order, so it does not
    depend on how many forwards run at once or on which of them ends first.

    Args:
        runnable: The model, entered.
        batches: Which frames share a forward.
        finishers: Take over what a runnable that works in steps puts out.
        forwards: Threads that call ``work``.
        items: Taken by one thread at a time.
        results: Get every item in order; one that is still in a forward says when it is done.
    """

    def __init__(
        self,
        runnable: Runnable,
        batches: Batches,
        finishers: Finishers | None,
        forwards: int,
        items: Iterable[Item],
        results: Results,
    ) -> None:
        self._runnable, self._batches, self._finishers = runnable, batches, finishers
        self._forwards = forwards
        self._due = self._feed(items, results)
        self._turn = Lock()

    def work(self) -> None:
        """Run forwards until there are no more items, or none is wanted any more."""
        while (batch := self._next()) is not None:
            self._forward(batch)

    def _next(self) -> list[Item] | None:
        with self._turn:
            return next(self._due, None)

    def _feed(self, items: Iterable[Item], results: Results) -> Iterator[list[Item]]:
        """Yield the batches; put the items into ``results`` in their order."""
        waiting: deque[Item] = deque()
        last: BaseException | None = None
        try:
            for batch in self._batched(items, waiting):
                if batch:
                    yield batch
                while waiting and not waiting[0].pending:
                    if not results.put(waiting.popleft()):
                        return
        except BaseException as exc:  # raised again where the results are written
            last = exc
        results.put(last)

    def _batched(self, items: Iterable[Item], waiting: deque[Item]) -> Iterator[list[Item]]:
        """Yield the batches that are due, and an empty one after each item."""
        for item in items:
            waiting.append(item)
            yield from map(_begun, self._batches.add(item))
            yield []  # the end of an asset needs no forward
        yield from map(_begun, self._batches.rest())

    def _forward(self, batch: Sequence[Item]) -> None:
        started = perf_counter()
        try:
            self._attempt_each(batch)
        except BaseException as exc:  # raised again where the results are written
            for item in batch:
                item.crash = exc
        # of forwards that run at once, each has its share of the device
        seconds = (perf_counter() - started) / (len(batch) * self._forwards)
        for item in batch:
            item.seconds["forward"] = seconds
            if self._finishers is not None and item.error is None and item.crash is None:
                self._finishers.take(item)
            elif item.finished is not None:
                item.finished.put(None)

    def _attempt_each(self, batch: Sequence[Item]) -> None:
        failure = self._attempt(batch)
        if failure is None:
            return
        for item in batch:  # split, so that only the guilty one fails
            item.error = failure if len(batch) == 1 else self._attempt([item])
            if item.error is not None:
                item.prepared = None

    def _attempt(self, batch: Sequence[Item]) -> AssetError | None:
        try:
            outputs = self._outputs(batch)
        except DeviceLostError:
            raise
        except Exception as exc:  # what it computed must not outlive the next attempt
            return failed(InferenceError, exc, batch[0].asset, "inference")
        for item, output in zip(batch, outputs, strict=True):
            if self._finishers is None:
                item.predictions = output
            elif item.frame is not None:
                item.prepared = output
                item.nbytes = item.frame.image.nbytes + getattr(output, "nbytes", 0)
        return None

    def _outputs(self, batch: Sequence[Item]) -> list[Any]:
        outputs: list[Any]
        if self._finishers is not None:
            stepped = cast(PipelinedRunnable, self._runnable)
            outputs = stepped.forward([item.prepared for item in batch])
        else:
            outputs = self._runnable.predict([item.frame for item in batch if item.frame])
        if len(outputs) != len(batch):
            raise ValueError(f"the runnable gave {len(outputs)} results for {len(batch)} frames")
        if self._finishers is None:
            for item, output in zip(batch, outputs, strict=True):
                check_size(item, output)
        return outputs


def _begun(batch: list[Item]) -> list[Item]:
    """Say of a batch's items that their forward need not be waited for before they are put."""
    for item in batch:
        item.pending, item.finished = False, SimpleQueue()
    return batch
