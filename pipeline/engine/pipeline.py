"""Runs the frames of assets through the model and the stages into the sinks.

```
decode, prepare   ->  forward               ->  finish              ->  stages, sinks, encoder
(decode threads)      (`forwards` threads)      (finisher threads)      (caller's thread)
```

All steps run at the same time, on queues bounded in bytes and in number, so memory does not grow
with the number of assets or with their length. Outcomes keep the input order, and a failed asset
does not affect the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TypeVar

from pipeline.engine.batches import Batches
from pipeline.engine.device import Device, OnForward
from pipeline.engine.finishing import Finishers, Results
from pipeline.engine.prefetch import Ahead, join
from pipeline.engine.writing import Encode, Writing
from pipeline.job import Outcome
from pipeline.protocols import (
    Asset,
    BatchingRunnable,
    ConcurrentRunnable,
    PipelinedRunnable,
    Runnable,
    Sink,
    Stage,
)

__all__ = ["Pipeline", "default_decode_threads"]

_MAX_THREADS = 8
_Threads = TypeVar("_Threads", Ahead, Finishers)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The steps that each asset goes through, and their limits.

    Attributes:
        runnable: The model, entered by the caller. A ``BatchingRunnable`` decides which frames
            share a forward, a ``ConcurrentRunnable`` how many forwards run at once.
        stages: The stages by name, in order.
        sinks: The sinks by name, entered by the caller; flushed in order.
        batch_size: The largest number of frames per forward, for runnables that are not a
            ``BatchingRunnable``.
        decode_threads: Number of assets that are decoded at the same time; by default half of the
            cores, up to eight, because the model and the sinks need the other half.
        queue_mb: Memory for queued frames: half of it before the device, half after it.
        encode: Encodes each result for ``Outcome.records``, such as ``pipeline.encoding.encode``;
            by default, outcomes carry no records.
        spool_dir: Directory for records that are too large for memory; by default the system's
            directory for temporary files.
        max_wait_s: Seconds that a frame may wait for others to share its forward; by default as
            long as it takes to make the batches depend on the input alone.
        on_forward: Called after each forward with its number of frames and its seconds, on any
            thread.
    """

    runnable: Runnable
    stages: Mapping[str, Stage]
    sinks: Mapping[str, Sink]
    batch_size: int | str = 1
    decode_threads: int | None = None
    queue_mb: float = 256
    encode: Encode | None = None
    spool_dir: Path | None = None
    max_wait_s: float | None = None
    on_forward: OnForward | None = None

    def run(self, assets: Iterable[Asset]) -> Generator[Outcome, None, None]:
        """Yield each asset's outcome in input order, after every sink has flushed it.

        A decoder that blocks when the run stops is closed or abandoned; see ``Ahead``.

        Raises:
            OutputError: The output can no longer be written; no incomplete file is left.
        """
        runnable = self.runnable
        pipelined = runnable if isinstance(runnable, PipelinedRunnable) else None
        by_shape = isinstance(runnable, BatchingRunnable) and bool(runnable.batch_by_shape)
        batches = Batches(self._batch_size(), by_shape, self.max_wait_s)
        threads = self.decode_threads or default_decode_threads()
        bounds = {
            "max_bytes": int(self.queue_mb * 1e6 / 2),
            "max_items": batches.window + 2 * threads,
        }
        results = Results(**bounds)
        with ExitStack() as stack:
            # closed again here, because a signal may interrupt the close in ``_stop``
            stack.callback(results.close)
            prepare = pipelined.prepare if pipelined else None
            ahead = _started(stack, Ahead(assets, prepare, threads=threads, **bounds))
            wanted = runnable.forwards if isinstance(runnable, ConcurrentRunnable) else 1
            # an unentered runnable still says "auto"; the number does not matter without input
            forwards = wanted if isinstance(wanted, int) else 1
            stops, finishers = [results.close, ahead.stop], None
            if pipelined:
                # with several forwards, each thread also finishes its output, which is still in
                # the CPU cache, while the other forwards keep the cores busy
                n_finishers = threads if forwards == 1 else 0
                finishers = _started(stack, Finishers(pipelined.finish, n_finishers))
                stops.append(finishers.stop)
            device = Device(runnable, batches, finishers, forwards, ahead, results, self.on_forward)
            devices = [
                Thread(target=device.work, name=f"device-{i}", daemon=True) for i in range(forwards)
            ]
            stack.callback(_stop, devices, stops)
            for thread in devices:
                thread.start()  # after ``_stop`` is registered, as in ``_started``
            writing = Writing(self.stages, self.sinks, self.encode, self.spool_dir)
            yield from writing.outcomes(iter(results.get, None))

    def _batch_size(self) -> int:
        own = self.runnable.batch_size if isinstance(self.runnable, BatchingRunnable) else None
        sizes = (own, self.batch_size)
        # "auto" is skipped here: only a runnable resolves it, when it is entered
        return next((size for size in sizes if isinstance(size, int)), 1)


def _started(stack: ExitStack, threads: _Threads) -> _Threads:
    """Register what stops the threads, then start them: a signal may arrive in between."""
    stack.push(threads)
    return threads.__enter__()


def _stop(threads: list[Thread], stops: list[Callable[[], None]]) -> None:
    for stop in stops:
        stop()
    join(threads)


def default_decode_threads() -> int:
    """Return the default number of decode threads: half of the cores, from 1 to 8."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return max(1, min(_MAX_THREADS, cores // 2))
