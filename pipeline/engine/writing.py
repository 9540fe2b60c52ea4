"""Stages and sinks, on the caller's thread, and what becomes of each asset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter

from pipeline.engine.behind import Results
from pipeline.engine.items import Item
from pipeline.errors import OutputError, PipelineError, StageError
from pipeline.failures import failed, sink_failed
from pipeline.job import Outcome
from pipeline.protocols import Asset, Sink, Stage
from pipeline.records import Result


@dataclass(slots=True)
class _Tally:
    """What is known so far of the asset that is being written."""

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
class Writing:
    """Takes results through the stages into the sinks.

    Attributes:
        stages: By name, in order.
        sinks: By name, entered; flushed in order, so the last is the commit point.
    """

    stages: Mapping[str, Stage]
    sinks: Mapping[str, Sink]

    def outcomes(self, results: Results) -> Iterator[Outcome]:
        """Yield each asset's outcome once every sink has flushed it."""
        tally = _Tally()
        asset: Asset | None = None  # the one in work
        try:
            while True:
                with tally.timed("waiting"):
                    item = results.get()
                if item is None:
                    return
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

    def _write(self, item: Item, tally: _Tally) -> None:
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

    def _discard(self, asset: Asset) -> None:
        for sink in self.sinks.values():
            with suppress(Exception):  # what led here is the error to tell
                sink.discard(asset)
