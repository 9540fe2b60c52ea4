"""What the device's one thread does: forwards, batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from traceback import clear_frames
from typing import Any, cast

from pipeline.engine.batches import Batches
from pipeline.engine.behind import Finishers, Results, check_size
from pipeline.engine.items import Item
from pipeline.errors import InferenceError
from pipeline.failures import failed
from pipeline.protocols import Runnable, SteppedRunnable


class Device:
    """Takes items through the model; their order stays, though batches are not made of neighbours.

    Args:
        runnable: The model, entered.
        batches: Which frames share a forward.
        finishers: Take over what a runnable that works in steps puts out.
    """

    def __init__(self, runnable: Runnable, batches: Batches, finishers: Finishers | None) -> None:
        self._runnable, self._batches, self._finishers = runnable, batches, finishers

    def feed(self, items: Iterable[Item], results: Results) -> None:
        """Put the items into ``results`` until there are no more, or none is wanted any more."""
        last: BaseException | None = None
        try:
            for item in self._through(items):
                if not results.put(item):
                    return
        except BaseException as exc:  # raised again where the results are written
            last = exc
        results.put(last)

    def _through(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items in their order, each once it went through the model."""
        waiting: deque[Item] = deque()
        for item in items:
            waiting.append(item)
            yield from self._done(self._batches.add(item), waiting)
        yield from self._done(self._batches.rest(), waiting)

    def _done(self, due: list[list[Item]], waiting: deque[Item]) -> Iterator[Item]:
        for batch in due:
            self._forward(batch)
            yield from _ready(waiting)
        yield from _ready(waiting)  # the end of an asset may need no forward

    def _forward(self, batch: Sequence[Item]) -> None:
        started = perf_counter()
        failure = self._attempt(batch)
        if failure is not None:
            for item in batch:  # split, so that only the guilty one fails
                single = failure if len(batch) == 1 else self._attempt([item])
                if single is not None:
                    item.error = failed(InferenceError, single, item.asset, "inference")
                    item.prepared = None
        seconds = (perf_counter() - started) / len(batch)
        for item in batch:
            item.seconds["forward"] = seconds
            item.pending = False
            if self._finishers is not None and item.error is None:
                self._finishers.take(item)

    def _attempt(self, batch: Sequence[Item]) -> Exception | None:
        try:
            outputs = self._outputs(batch)
        except Exception as exc:
            clear_frames(exc.__traceback__)  # what it computed must not outlive the next attempt
            return exc
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
            stepped = cast(SteppedRunnable, self._runnable)
            outputs = stepped.forward([item.prepared for item in batch])
        else:
            outputs = self._runnable.predict([item.frame for item in batch if item.frame])
        if len(outputs) != len(batch):
            raise ValueError(f"the runnable gave {len(outputs)} results for {len(batch)} frames")
        if self._finishers is None:
            for item, output in zip(batch, outputs, strict=True):
                check_size(item, output)
        return outputs


def _ready(waiting: deque[Item]) -> Iterator[Item]:
    while waiting and not waiting[0].pending:
        yield waiting.popleft()
