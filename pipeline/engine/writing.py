"""Runs stages, sinks and the encoder on the caller's thread, and yields each asset's outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from pipeline.engine.items import Item
from pipeline.errors import OutputError, PartialError, PipelineError, StageError
from pipeline.failures import failed, sink_failed
from pipeline.job import Outcome
from pipeline.protocols import (
    AnnotatedAsset,
    Asset,
    BeginsAssets,
    SelectiveSink,
    Sink,
    Stage,
    SuspendableSink,
    supports,
)
from pipeline.records import Result
from pipeline.system.spool import Spool

Encode = Callable[..., bytes]
_RECORDS = "predictions"  # the step of an error of the encoder


@dataclass(slots=True)
class _Open:
    """The asset that is being written, with its counts; its size does not grow with the frames."""

    asset: Asset
    records: Spool
    has_begun: bool = False
    n_frames: int = 0
    n_dropped: int = 0
    error: PipelineError | None = None
    partial: PartialError | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    detections: dict[str, int] = field(default_factory=dict)

    def spend(self, step: str, seconds: float) -> None:
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.spend(step, perf_counter() - started)

    def count(self, result: Result) -> None:
        predictions = result.predictions
        for class_id in predictions.classes.tolist():
            name = predictions.class_names[class_id]
            self.detections[name] = self.detections.get(name, 0) + 1

    def outcome(self) -> Outcome:
        return Outcome(
            self.asset,
            n_frames=self.n_frames,
            n_dropped=self.n_dropped,
            timings=self.seconds,
            detections={} if self.error else self.detections,
            error=self.error,
            partial=None if self.error else self.partial,
            records=self.records,
        )


@dataclass(frozen=True, slots=True)
class Writing:
    """Passes results through the stages to the sinks and the encoder, all on one thread.

    The encoder does not run on a separate thread because it is pure Python: it would compete with
    this thread for the interpreter, and passing on a result takes as long as encoding a few
    instances.

    Attributes:
        stages: The stages by name, in order.
        sinks: The sinks by name, entered; flushed in order.
        encode: Returns a result's line for ``predictions.jsonl``, see ``pipeline.encoding``;
            ``None`` to keep no records.
        spool_dir: Directory for records that are too large for memory.
    """

    stages: Mapping[str, Stage]
    sinks: Mapping[str, Sink]
    encode: Encode | None = None
    spool_dir: Path | None = None

    def outcomes(self, items: Iterator[Item]) -> Iterator[Outcome]:
        """Yield each asset's outcome once every sink has flushed it.

        Args:
            items: The frames of each asset, in order, each asset followed by an item without frame.
        """
        current: _Open | None = None
        try:
            while True:
                started = perf_counter()
                item = next(items, None)
                if item is None:
                    return
                if current is None:
                    current = _Open(item.asset, Spool(self.spool_dir))
                current.spend("waiting", perf_counter() - started)
                for step, seconds in item.seconds.items():
                    current.spend(step, seconds)
                current.error = current.error or item.error
                current.partial = item.partial
                if item.frame is not None:
                    current.n_frames += 1
                    if current.error is None:
                        self._write(item, current)
                    continue
                self._flush(current)
                outcome, current = current.outcome(), None
                yield outcome
        finally:
            if current is not None:  # the run ended before the asset did
                self._discard(current, suspends=True)

    def _write(self, item: Item, current: _Open) -> None:
        if item.frame is None or item.predictions is None:
            return
        if not current.has_begun:
            current.has_begun = True
            self._begin(current)
            if current.error is not None:
                return
        result = self._staged(Result(item.frame, item.predictions), current)
        if result is None:
            return
        current.count(result)
        with current.timed("sinks"):
            for name, sink in self.sinks.items():
                try:
                    min_score = sink.min_score if supports(sink, SelectiveSink) else 0
                    sink.write(result.at_least(min_score) if min_score else result)
                except Exception as exc:
                    current.error = sink_failed(exc, current.asset, name)
                    return
            if self.encode is not None:
                try:
                    asset = current.asset
                    more = {"columns": asset.columns} if supports(asset, AnnotatedAsset) else {}
                    line = self.encode(result, numbered=not asset.is_still, **more)
                    current.records.append(line)
                except Exception as exc:
                    current.error = sink_failed(exc, current.asset, _RECORDS)

    def _begin(self, current: _Open) -> None:
        with current.timed("stages"):
            for name, stage in self.stages.items():
                try:
                    if supports(stage, BeginsAssets):
                        stage.begin(current.asset)
                except Exception as exc:
                    current.error = failed(StageError, exc, current.asset, name)
                    return
        with current.timed("sinks"):
            for name, sink in self.sinks.items():
                try:
                    sink.begin(current.asset)
                except Exception as exc:
                    current.error = sink_failed(exc, current.asset, name)
                    return

    def _staged(self, result: Result, current: _Open) -> Result | None:
        """Return the result after all stages; ``None`` if one dropped the frame or failed."""
        with current.timed("stages"):
            for name, stage in self.stages.items():
                try:
                    kept = stage(result)
                    if not isinstance(kept, Result | None):
                        raise TypeError(f"it returned {type(kept).__name__}, not a Result or None")
                except Exception as exc:
                    current.error = failed(StageError, exc, current.asset, name)
                    return None
                if kept is None:
                    current.n_dropped += 1
                    return None
                result = kept
        return result

    def _flush(self, current: _Open) -> None:
        with current.timed("sinks"):
            for name, sink in self.sinks.items():
                try:
                    if current.error is None:
                        sink.flush(current.asset)
                except Exception as exc:
                    current.error = sink_failed(exc, current.asset, name)
            if current.error is not None:
                self._discard(current)
        if isinstance(current.error, OutputError):
            raise current.error

    def _discard(self, current: _Open, *, suspends: bool = False) -> None:
        current.records.close()
        for sink in self.sinks.values():
            with suppress(Exception):  # the error that led here is the one to report
                if suspends and current.error is None and supports(sink, SuspendableSink):
                    sink.suspend(current.asset)
                else:
                    sink.discard(current.asset)
