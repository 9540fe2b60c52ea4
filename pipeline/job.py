"""The interface of runners: the job, the outcome of each asset, and the report of a run."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pipeline.errors import PartialError, PipelineError
from pipeline.protocols import (
    Aggregate,
    Asset,
    BatchingRunnable,
    LimitedRunnable,
    Model,
    NumericRunnable,
    PlacedRunnable,
    Pushdown,
    PushesDown,
    Runnable,
    Sink,
    Source,
    Stage,
    ThreadedRunnable,
)
from pipeline.redaction import redacted_text
from pipeline.system.spool import Spool
from pipeline.system.versions import library_versions

# where a source finds its input, how it gets it, and when it stops; not what it does with it
_HOW = ("timeout_s", "retries", "max_backoff_s", "duration_s", "max_frames")
_PLACES = ("input", "run", "root", "cache_mb", *_HOW)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The outcome of one asset, as runners receive it. Can be pickled.

    Attributes:
        asset: The asset; identified by its id.
        n_frames: Frames that were decoded.
        n_dropped: Frames that a stage dropped.
        timings: Seconds by step.
        detections: Number of instances written, by class name.
        error: Why the asset failed; ``None`` if it is done.
        partial: Why a part of an asset that is done could not be decoded; ``None`` if all could.
        records: The asset's lines for ``predictions.jsonl``, with image id 0; empty if it failed or
            nothing encodes. Whoever gets the outcome closes them.
    """

    asset: Asset
    n_frames: int = 0
    n_dropped: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    detections: Mapping[str, int] = field(default_factory=dict)
    error: PipelineError | None = None
    partial: PartialError | None = None
    records: Spool = field(default_factory=Spool)


@runtime_checkable
class Executor(Protocol):
    """Decides where the work is done: on threads of this process, or elsewhere."""

    def run(self, assets: Iterable[Asset]) -> Iterator[Outcome]:
        """Yield the outcome of each asset once every sink has flushed it.

        Outcomes may come in any order, and repeatedly: the first one of an asset counts. Assets are
        requested lazily, on one thread at a time, because an asset counts as in-flight from then
        on. The sinks of the job are made durable when outcomes are committed; an executor with
        sinks of its own makes those durable before it yields. If the iterator is ``Closable``, the
        runner closes it to stop early.

        Raises:
            OutputError: The output can no longer be written.
        """
        ...


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Assets that failed for the same reason.

    Attributes:
        reason: The message that these assets share.
        count: Number of these assets.
        examples: Ids of the first of these assets.
    """

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a run.

    Attributes:
        exit_status: 0: all done, 3: some failed, 4: the failure budget is spent (formats.md).
        output: The run directory; ``None`` for runners that write none.
        counts: Number of assets by outcome in this run: ``done``, ``failed``, ``earlier`` (done by
            an earlier run), ``later`` (not requested), ``not_retried``, ``removed`` (their files
            are gone).
        totals: Number of assets in the output, including earlier runs: ``done``, ``failed``.
        skipped: Number of skipped files of the input, by reason.
        detections: Number of instances written, by class name.
        failures: The assets that failed in this run, or are not done in full, by reason, the most
            common reason first.
        timings: Seconds by step, over all threads.
        wall_s: Seconds from the first to the last asset.
        slowest: The inputs that took the most seconds in all steps, with these.
        metric: The number that a sweep can optimize; ``None`` if nothing was evaluated.
        rebuilt: Whether lists or aggregates were missing or outdated, and were built again.
        message: One sentence for standard error: an error if the exit status is not 0, otherwise a
            warning.
        interrupted: Whether a signal ended a stream, so that a sweep does not start its next job.
    """

    exit_status: int
    output: Path | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    detections: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[FailureGroup, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    slowest: tuple[tuple[str, float], ...] = ()
    metric: float | None = None
    rebuilt: bool = False
    message: str = ""
    interrupted: bool = False

    @property
    def busy(self) -> float:
        """The share of the wall time in which the model's forward ran."""
        return self.timings.get("forward", 0.0) / self.wall_s if self.wall_s else 0.0


@runtime_checkable
class Runner(Protocol):
    """Decides how often the job runs, and what is kept between runs."""

    def run(self, job: Job) -> Report:
        """Run the job and report how it ended."""
        ...


@runtime_checkable
class UploadingRunner(Protocol):
    """A runner whose output may be in an object store."""

    uploads: Literal[True]


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a runner needs, built and checked; nothing is opened or loaded yet.

    Attributes:
        source: ``None`` when no input is given, which only some runners accept.
        model: The model that ``model=`` describes.
        store: The model store.
        runnable: The model on a device, not entered.
        stages: The stages by name, in order.
        sinks: The sinks by name; ``label_maps`` is part of every job.
        aggregates: The aggregates by name.
        runner: The runner that the job was built for.
        output: The run directory, absolute.
        config: The resolved configuration, plain containers.
        hydra_files: Content of the files of ``.hydra/`` by name; empty outside ``run.py``.
        started: When the job was started, in seconds since 1970.
        address: Where the output is in an object store, with the secrets that the address has;
            ``output`` is its local copy then. ``None`` if the output is only a directory.
    """

    source: Source | None
    model: Model
    store: Any
    runnable: Runnable
    stages: dict[str, Stage]
    sinks: dict[str, Sink]
    aggregates: dict[str, Aggregate]
    runner: Runner
    output: Path
    config: dict[str, Any]
    hydra_files: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    address: str | None = None

    def parts(self) -> Iterator[tuple[str, Any]]:
        """Yield the source, stages, sinks and aggregates, each with its configuration key."""
        if self.source is not None:
            yield "source", self.source
        for name, stage in self.stages.items():
            yield f"stage.{name}", stage
        written: dict[str, Sink | Aggregate] = {**self.sinks, **self.aggregates}
        for name, part in written.items():
            yield f"sink.{name}", part

    def outputs(self) -> tuple[str, ...]:
        """Return the names in the run directory that the sinks and aggregates own."""
        parts: list[Sink | Aggregate] = [*self.sinks.values(), *self.aggregates.values()]
        return tuple(dict.fromkeys(name for part in parts for name in part.outputs))

    def shown(self, text: str) -> str:
        """Return a message that names the address of the output, not its local copy."""
        if self.address is None:
            return text
        return text.replace(str(self.output), redacted_text(self.address))

    def limits(self) -> Pushdown:
        """Return which instances the options and stages drop, whatever the images show."""
        model, runnable = self.config["model"], self.config["runnable"]
        keys = ("min_score", "classes", "max_instances")
        limits = Pushdown(min_score=model["score_threshold"])
        limits = limits.combined(Pushdown(**{key: runnable.get(key) for key in keys}))
        if isinstance(self.runnable, LimitedRunnable):
            limits = limits.combined(self.runnable.limits)
        for stage in self.stages.values():
            if isinstance(stage, PushesDown):
                limits = limits.combined(stage.pushdown())
        return limits

    def settings(self) -> dict[str, Any]:
        """Return everything that determines the results; the fingerprint is its digest.

        ``device`` is complete only once the runnable has been entered.
        """
        config = self.config
        settings = {
            "model": self.model.identity(),
            "jpeg": config["decode"]["jpeg"],
            "source": {k: v for k, v in config["source"].items() if k not in _PLACES},
            "runnable": {k: v for k, v in config["runnable"].items() if k != "cache"},
            "batch_size": config["batch_size"],
            "seed": config["seed"],
            "device": self._device(),
            "stage": config["stage"],
            "stages": list(config["stage"]),  # their order counts
            "sinks": sorted(name for name in self.sinks if name in config["sink"]),
            "versions": library_versions(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        return plain

    def _device(self) -> dict[str, Any]:
        """Return what influences the results and is known once the runnable is entered."""
        runnable = self.runnable
        return {
            "device": runnable.device if isinstance(runnable, PlacedRunnable) else None,
            "threads": runnable.threads if isinstance(runnable, ThreadedRunnable) else None,
            "batch_size": runnable.batch_size if isinstance(runnable, BatchingRunnable) else None,
            "numerics": runnable.numerics if isinstance(runnable, NumericRunnable) else None,
        }

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of the settings."""
        text = json.dumps(self.settings(), sort_keys=True)
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def inputs_of(given: str | list[str] | None) -> list[str]:
    """Return the inputs of a normalized configuration."""
    if given is None:
        return []
    return given if isinstance(given, list) else [given]
