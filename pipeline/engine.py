"""Frames from assets, through the model and the stages, into the sinks.

```
decode (threads, ahead)  ->  predict (one thread)  ->  stages, sinks (the caller's thread)
```

The three run beside one another on bounded queues, so memory does not grow with the number of
assets; order is kept; one asset's failure is its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Event, Thread
from time import perf_counter
from traceback import clear_frames
from typing import TypeVar

from pipeline.errors import DecodeError, InferenceError, OutputError, PipelineError, StageError
from pipeline.failures import failed, sink_failed
from pipeline.protocols import Asset, Runnable, Sink, Stage
from pipeline.types import Frame, Outcome, Predictions, Result

T = TypeVar("T")

_POLL_S = 0.1  # how soon a thread that waits on a queue notices that it should stop


@dataclass(slots=True)
class _Item:
    """A frame on its way, or (``frame`` is None) the end of its asset."""

    asset: Asset
    frame: Frame | None = None
    predictions: Predictions | None = None
    error: PipelineError | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Tally:
    """What is known so far of the asset that is being finished."""

    n_frames: int = 0
    n_dropped: int = 0
    error: PipelineError | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    detections: dict[str, int] = field(default_factory=dict)

    def spend(self, step: str, seconds: float) -> None:
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    def outcome(self, asset: Asset) -> Outcome:
        return Outcome(
            asset,
            n_frames=self.n_frames,
            n_dropped=self.n_dropped,
            timings=self.seconds,
            detections={} if self.error else self.detections,
            error=self.error,
        )

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.spend(step, perf_counter() - started)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What is done to each asset.

    Attributes:
        runnable: The model, entered by the caller.
        stages: By name, in order.
        sinks: By name, entered by the caller; flushed in order, so the last is the commit point.
        batch_size: Frames that are given to the model at once.
        decode_threads: Assets that are decoded at the same time.
    """

    runnable: Runnable
    stages: Mapping[str, Stage]
    sinks: Mapping[str, Sink]
    batch_size: int = 1
    decode_threads: int = 2

    def run(self, assets: Iterable[Asset]) -> Generator[Outcome, None, None]:
        """Yield each asset's outcome in input order, after every sink has flushed it.

        Raises:
            OutputError: The output cannot be written any more; nothing half-written is left.
        """
        stop = Event()
        results: Queue[_Item | BaseException | None] = Queue(self.batch_size + 1)

        def predict_ahead() -> None:
            last: BaseException | None = None
            with closing(self._decoded(assets, stop)) as decoded:
                try:
                    for item in self._predicted(decoded):
                        if not _put(results, item, stop):
                            return
                except BaseException as exc:  # told to the caller's thread, which raises it
                    last = exc
                _put(results, last, stop)

        device = Thread(target=predict_ahead, name="predict", daemon=True)
        device.start()
        try:
            yield from self._finished(results)
        finally:
            stop.set()
            device.join()

    def _decoded(self, assets: Iterable[Asset], stop: Event) -> Generator[_Item, None, None]:
        waiting = iter(assets)
        window: deque[Queue[_Item]] = deque()
        halt = Event()  # whatever ends this generator ends its decoders, or the pool would wait
        with ThreadPoolExecutor(self.decode_threads, "decode") as pool:
            try:
                while not stop.is_set():
                    while len(window) <= self.decode_threads and (asset := next(waiting, None)):
                        queue: Queue[_Item] = Queue(self.batch_size + 1)
                        pool.submit(_decode, asset, queue, halt)
                        window.append(queue)
                    if not window:
                        return
                    queue = window.popleft()
                    while (item := _get(queue, stop)) is not None:
                        yield item
                        if item.frame is None:
                            break
            finally:
                halt.set()

    def _predicted(self, items: Iterator[_Item]) -> Iterator[_Item]:
        batch: list[_Item] = []
        frames = 0
        for item in items:
            batch.append(item)
            frames += item.frame is not None
            if frames in (0, self.batch_size):  # ends of assets need not wait for a frame
                yield from self._forward(batch)
                batch, frames = [], 0
        yield from self._forward(batch)

    def _forward(self, batch: list[_Item]) -> list[_Item]:
        items = [item for item in batch if item.frame is not None]
        if not items:
            return batch
        started = perf_counter()
        failure = self._predict(items)
        if failure is not None:
            for item in items:  # split, so that only the guilty one fails
                single = failure if len(items) == 1 else self._predict([item])
                if single is not None:
                    item.error = failed(InferenceError, single, item.asset, "inference")
        for item in items:
            item.seconds["forward"] = (perf_counter() - started) / len(items)
        return batch

    def _predict(self, items: Sequence[_Item]) -> Exception | None:
        frames = [item.frame for item in items if item.frame is not None]
        try:
            predictions = self.runnable.predict(frames)
            if [getattr(p, "image_size", None) for p in predictions] != [f.size for f in frames]:
                raise ValueError(
                    f"the runnable gave {len(predictions)} results for {len(frames)} frames, "
                    "or results of other sizes"
                )
        except Exception as exc:
            clear_frames(exc.__traceback__)  # what it computed must not outlive the next attempt
            return exc
        for item, prediction in zip(items, predictions, strict=True):
            item.predictions = prediction
        return None

    def _finished(self, items: Queue[_Item | BaseException | None]) -> Iterator[Outcome]:
        tally = _Tally()
        asset: Asset | None = None  # the one in work
        try:
            while True:
                with tally.timed("waiting"):
                    item = items.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                asset = item.asset
                for step, seconds in item.seconds.items():
                    tally.spend(step, seconds)
                tally.error = tally.error or item.error
                if item.frame is not None:
                    tally.n_frames += 1
                    if tally.error is None:
                        self._write(item, tally)
                    continue
                self._commit(asset, tally)
                done, asset = tally.outcome(asset), None
                tally = _Tally()
                yield done
        finally:
            if asset is not None:  # the run ends in the middle of it
                self._discard(asset)

    def _discard(self, asset: Asset) -> None:
        for sink in self.sinks.values():
            with suppress(Exception):  # what led here is the error to tell
                sink.discard(asset)

    def _write(self, item: _Item, tally: _Tally) -> None:
        if item.frame is None or item.predictions is None:
            return
        result = Result(item.frame, item.predictions)
        with tally.timed("stages"):
            for name, stage in self.stages.items():
                try:
                    kept = stage(result)
                    if not isinstance(kept, Result | None):
                        raise TypeError(f"it returned {type(kept).__name__}, not a Result or None")
                except Exception as exc:
                    tally.error = failed(StageError, exc, item.asset, name)
                    return
                if kept is None:
                    tally.n_dropped += 1
                    return
                result = kept
        for class_id in result.predictions.classes.tolist():
            name = result.predictions.class_names[class_id]
            tally.detections[name] = tally.detections.get(name, 0) + 1
        with tally.timed("sinks"):
            for name, sink in self.sinks.items():
                try:
                    sink.write(result)
                except Exception as exc:
                    tally.error = sink_failed(exc, item.asset, name)
                    return

    def _commit(self, asset: Asset, tally: _Tally) -> None:
        with tally.timed("sinks"):
            for name, sink in self.sinks.items():
                try:
                    if tally.error is None:
                        sink.flush(asset)
                except Exception as exc:
                    tally.error = sink_failed(exc, asset, name)
            if tally.error is not None:
                self._discard(asset)
        if isinstance(tally.error, OutputError):
            raise tally.error


def _decode(asset: Asset, queue: Queue[_Item], halt: Event) -> None:
    error: PipelineError | None = None
    n_frames = 0
    started = perf_counter()
    try:
        for frame in asset.frames():
            item = _Item(asset, frame, seconds={"decode": perf_counter() - started})
            n_frames += 1
            if not _put(queue, item, halt):
                return
            started = perf_counter()
        if not n_frames:
            error = DecodeError("it holds no frame", asset_id=asset.id)
    except Exception as exc:
        error = failed(DecodeError, exc, asset, "decode")
    _put(queue, _Item(asset, error=error, seconds={"decode": perf_counter() - started}), halt)


def _put(queue: Queue[T], item: T, stop: Event) -> bool:
    """Put, unless the run stops first: returns whether the item went in."""
    while not stop.is_set():
        with suppress(Full):
            queue.put(item, timeout=_POLL_S)
            return True
    return False


def _get(queue: Queue[T], stop: Event) -> T | None:
    """Get, unless the run stops first."""
    while not stop.is_set():
        with suppress(Empty):
            return queue.get(timeout=_POLL_S)
    return None
