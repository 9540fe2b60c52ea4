"""Frames from assets, through the model and the stages, into the sinks.

```
decode, prepare      ->  forward       ->  finish     ->  stages, sinks
(threads, in ahead)      (``forwards``)    (threads)      (the caller's thread)
```

All of them run beside one another on queues bounded in bytes and in number, so memory does not
grow with the number of assets; order is kept; one asset's failure is its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Thread
from typing import TypeVar

from pipeline.engine.ahead import Ahead, join
from pipeline.engine.batches import Batches
from pipeline.engine.behind import Finishers, Results
from pipeline.engine.device import Device
from pipeline.engine.writing import Writing
from pipeline.job import Outcome
from pipeline.protocols import Asset, PipelinedRunnable, Runnable, Sink, Stage

__all__ = ["Pipeline", "half_the_cores"]

_MOST_THREADS = 8
_Threads = TypeVar("_Threads", Ahead, Finishers)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What is done to each asset.

    Attributes:
        runnable: The model, entered by the caller. Its ``batch_size`` and ``batch_by_shape``,
            where it has them, say which frames share a forward, and ``forwards`` how many run at
            once.
        stages: By name, in order.
        sinks: By name, entered by the caller; flushed in order, so the last is the commit point.
        batch_size: Frames that are given at once to a runnable that does not say itself.
        decode_threads: Assets that are decoded at the same time; by default half of the cores, up
            to eight, for the other half is the model's or the thread's that writes.
        queue_mb: What may wait: half of it before the device, half behind it.
    """

    runnable: Runnable
    stages: Mapping[str, Stage]
    sinks: Mapping[str, Sink]
    batch_size: int | str = 1
    decode_threads: int | None = None
    queue_mb: float = 256

    def run(self, assets: Iterable[Asset]) -> Generator[Outcome, None, None]:
        """Yield each asset's outcome in input order, after every sink has flushed it.

        Raises:
            OutputError: The output cannot be written any more; nothing half-written is left.
        """
        runnable = self.runnable
        stepped = runnable if isinstance(runnable, PipelinedRunnable) else None
        batches = Batches(self._batch_size(), bool(getattr(runnable, "batch_by_shape", False)))
        threads = self.decode_threads or half_the_cores()
        bounds = {
            "max_bytes": int(self.queue_mb * 1e6 / 2),
            "max_items": batches.window + 2 * threads,
        }
        results = Results(**bounds)
        with ExitStack() as stack:
            stack.callback(results.close)  # all are told twice: a signal may cut short the first
            prepare = stepped.prepare if stepped else None
            ahead = _started(stack, Ahead(assets, prepare, threads=threads, **bounds))
            wanted = getattr(runnable, "forwards", 1)
            forwards = wanted if isinstance(wanted, int) else 1  # "auto": never entered, no input
            stops, finishers = [results.close, ahead.stop], None
            if stepped:
                # of several forwards one can wait: what it has put out is still in the cache
                others = threads if forwards == 1 else 0
                finishers = _started(stack, Finishers(stepped.finish, others))
                stops.append(finishers.stop)
            device = Device(runnable, batches, finishers, forwards, ahead, results)
            devices = [
                Thread(target=device.work, name=f"device-{i}", daemon=True) for i in range(forwards)
            ]
            stack.callback(_end, devices, stops)
            for thread in devices:
                thread.start()  # after what ends it, as in _started
            yield from Writing(self.stages, self.sinks).outcomes(results)

    def _batch_size(self) -> int:
        sizes = (getattr(self.runnable, "batch_size", None), self.batch_size)
        return next((size for size in sizes if isinstance(size, int)), 1)  # "auto" is the model's


def _started(stack: ExitStack, threads: _Threads) -> _Threads:
    """Start threads after what ends them, for a signal may come in between."""
    stack.push(threads)
    return threads.__enter__()


def _end(threads: list[Thread], stops: list[Callable[[], None]]) -> None:
    for stop in stops:
        stop()
    join(threads)


def half_the_cores() -> int:
    """Return how many threads to decode on."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return max(1, min(_MOST_THREADS, cores // 2))
