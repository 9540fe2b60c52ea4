"""Runs forward passes on the device threads, batch by batch, one or several at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Lock
from time import perf_counter
from typing import Any, cast

from pipeline.engine.batches import Batches
from pipeline.engine.finishing import Finishers, Results, check_size
from pipeline.engine.items import Item
from pipeline.engine.prefetch import Ahead
from pipeline.errors import AssetError, DeviceLostError, InferenceError
from pipeline.failures import failed
from pipeline.protocols import PipelinedRunnable, Runnable, Sized, supports

OnForward = Callable[[int, float], object]


class Device:
    """Runs batches through the model and passes items on in input order.

    A batch may group frames that are not neighbors. Which frames share a forward is decided by one
    thread at a time, in input order, so it does not depend on how many forwards run at once or on
    which of them ends first.

    Args:
        runnable: The model, entered.
        batches: Groups the frames that share a forward.
        finishers: Convert the outputs of a pipelined runnable; ``None`` for other runnables.
        forwards: The number of threads that call ``work``.
        ahead: The items in input order; read by one thread at a time.
        results: Receives every item in input order. An item whose forward is still running signals
            ``item.finished`` later.
        on_forward: Called after each forward with its number of frames and its seconds, on a
            device thread; ``None`` for nobody.
    """

    def __init__(
        self,
        runnable: Runnable,
        batches: Batches,
        finishers: Finishers | None,
        forwards: int,
        ahead: Ahead,
        results: Results,
        on_forward: OnForward | None = None,
    ) -> None:
        self._runnable, self._batches, self._finishers = runnable, batches, finishers
        self._forwards, self._on_forward = forwards, on_forward
        self._due = self._feed(ahead, results)
        self._turn = Lock()

    def work(self) -> None:
        """Run forwards until there are no more items, or ``results`` is closed."""
        while (batch := self._next()) is not None:
            self._forward(batch)

    def _next(self) -> list[Item] | None:
        with self._turn:
            return next(self._due, None)

    def _feed(self, ahead: Ahead, results: Results) -> Iterator[list[Item]]:
        """Yield the batches; pass the items to ``results`` in input order."""
        waiting: deque[Item] = deque()
        last: BaseException | None = None
        try:
            for batch in self._batched(ahead, waiting):
                if batch:
                    yield batch
                while waiting and not waiting[0].pending:
                    if not results.put(waiting.popleft()):
                        return
        except BaseException as exc:  # raised again where the results are written
            last = exc
        results.put(last)

    def _batched(self, ahead: Ahead, waiting: deque[Item]) -> Iterator[list[Item]]:
        """Yield the batches that are due, and an empty one after each item."""
        for item in ahead.items(self._batches.patience_s):
            if item is None:
                yield from map(_mark_started, self._batches.rest())
                continue
            waiting.append(item)
            yield from map(_mark_started, self._batches.add(item))
            yield []  # the end of an asset needs no forward
        yield from map(_mark_started, self._batches.rest())

    def _forward(self, batch: Sequence[Item]) -> None:
        started = perf_counter()
        try:
            self._attempt_each(batch)
        except BaseException as exc:  # raised again where the results are written
            for item in batch:
                item.crash = exc
        took_s = perf_counter() - started
        if self._on_forward is not None:
            self._on_forward(len(batch), took_s)
        seconds = took_s / (len(batch) * self._forwards)  # forwards at once share the device
        for item in batch:
            item.seconds["forward"] = seconds
            if self._finishers is not None and item.error is None and item.crash is None:
                self._finishers.add(item)
            elif item.finished is not None:
                item.finished.put(None)

    def _attempt_each(self, batch: Sequence[Item]) -> None:
        failure = self._attempt(batch)
        if failure is None:
            return
        for item in batch:  # retry one by one, so that only the asset that causes the failure fails
            item.error = failure if len(batch) == 1 else self._attempt([item])
            if item.error is not None:
                item.prepared = None

    def _attempt(self, batch: Sequence[Item]) -> AssetError | None:
        try:
            outputs = self._outputs(batch)
        except DeviceLostError:
            raise
        except Exception as exc:  # ``failed`` drops the traceback, which holds the batch's tensors
            return failed(InferenceError, exc, batch[0].asset, "inference")
        for item, output in zip(batch, outputs, strict=True):
            if self._finishers is None:
                item.predictions = output
            elif item.frame is not None:
                item.prepared = output
                size = output.nbytes if supports(output, Sized) else 0
                item.nbytes = item.frame.image.nbytes + size
        return None

    def _outputs(self, batch: Sequence[Item]) -> list[Any]:
        outputs: list[Any]
        if self._finishers is not None:
            pipelined = cast(PipelinedRunnable, self._runnable)
            outputs = pipelined.forward([item.prepared for item in batch])
        else:
            outputs = self._runnable.predict([item.frame for item in batch if item.frame])
        if len(outputs) != len(batch):
            raise ValueError(
                f"the runnable returned {len(outputs)} results for {len(batch)} frames"
            )
        if self._finishers is None:
            for item, output in zip(batch, outputs, strict=True):
                check_size(item, output)
        return outputs


def _mark_started(batch: list[Item]) -> list[Item]:
    """Mark a batch's items as being in a forward, so that they can be passed on."""
    for item in batch:
        item.pending, item.finished = False, SimpleQueue()
    return batch
