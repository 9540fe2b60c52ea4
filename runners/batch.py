"""Once over the input."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import Job
from pipeline.engine import Pipeline
from pipeline.errors import AssetError, ConfigError, OutputError, PipelineError
from pipeline.types import Outcome, Report
from runners.console import Progress, print_summary, say
from runners.lock import locked
from runners.record import Record

_FILES = ("predictions.jsonl", "coco.json", "coco_results.json", "panoptic.json")
_FOLDERS = ("overlay", "sem_seg", "panoptic")
_log = logging.getLogger("d2run")


@dataclass
class Batch:
    """Runs the pipeline once over every input.

    Attributes:
        on_error: ``skip`` goes on after an input that failed; ``raise`` stops at the first.
        max_failures: Stop when more inputs than this have failed; ``None`` for no limit.
    """

    on_error: str = "skip"
    max_failures: int | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("skip", "raise"):
            raise ConfigError(f"runner.on_error is '{self.on_error}'; it must be skip or raise")
        if self.max_failures is not None and self.max_failures < 0:
            raise ConfigError(f"runner.max_failures is {self.max_failures}; it must not be < 0")

    def run(self, job: Job) -> Report:
        """Carry out the job.

        Raises:
            ConfigError: There is no input, or the device does not exist; nothing was started.
            StoreError: The weights cannot be had or do not fit.
            OutputError: The output cannot be written.
        """
        if job.source is None:
            raise ConfigError(
                "no input: add input=PATH (a file, a folder, a glob, a list of paths in a .txt or "
                ".csv file, or - for paths on standard input)"
            )
        total = sum(1 for _ in job.source)
        with locked(job.output), _logged(job.output / "run.log"), ExitStack() as stack:
            started = time.monotonic()
            device: dict[str, Any] = {"device": job.config["device"]}
            if total:  # an empty folder needs no model
                stack.enter_context(job.runnable)
                device = getattr(job.runnable, "describe", lambda: device)()
            warnings = list(_warnings(job, total))
            for warning in warnings:
                say(f"warning: {warning}")
            seconds = {"load": time.monotonic() - started}
            run = _Run(job, self, total, Record(job, device, warnings), seconds)
            try:
                report = run.carry_out()
            except OSError as exc:
                raise OutputError(f"cannot write the output {job.output}: {exc}") from exc
        if not job.config["quiet"]:
            print_summary(report, run.record.ran_on())
        return report


def _warnings(job: Job, total: int) -> Iterator[str]:
    yield from getattr(job.model, "warnings", [])
    for entry in getattr(job.source, "skipped", list)():
        if getattr(entry, "lost", False):
            yield f"left out: {entry.path}: {entry.reason}"
    if not total:
        yield f"there is no image in {job.config['input']}"


@dataclass
class _Run:
    """One run under way, and its counts."""

    job: Job
    batch: Batch
    total: int
    record: Record
    seconds: dict[str, float]
    counts: Counter[str] = field(default_factory=Counter)
    detections: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    def carry_out(self) -> Report:
        job = self.job
        try:
            _clear(job.output)
            with self.record, ExitStack() as sinks:
                for sink in job.sinks.values():
                    sinks.enter_context(sink)
                with Progress(self.total).shown() as progress:
                    self._each_input(progress)
                sinks.close()
                for aggregate in job.aggregates.values():
                    aggregate.build(job.output / "predictions.jsonl", job.model.categories)
                report = self._report()
                self.record.finish(report)
        except BaseException as exc:
            self._interrupted(exc)
            raise
        return report

    def _each_input(self, progress: Progress) -> None:
        job = self.job
        options = {key: job.config[key] for key in ("batch_size", "decode_threads", "queue_mb")}
        pipeline = Pipeline(job.runnable, job.stages, job.sinks, **options)
        self.started = time.monotonic()
        outcomes = pipeline.run(job.source or ())
        try:
            for outcome in outcomes:
                self._count(outcome)
                self.record.add(outcome)
                progress.advance()
                if outcome.error is not None:
                    _log.error("%s: %s", outcome.asset.id, outcome.error, exc_info=outcome.error)
                    progress.say(f"error: {outcome.asset.id}: {_where(outcome.error)}")
                    if self._is_over():
                        break
        finally:
            outcomes.close()

    def _count(self, outcome: Outcome) -> None:
        self.counts["failed" if outcome.error else "done"] += 1
        self.detections.update(outcome.detections)
        for step, seconds in outcome.timings.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    def _is_over(self) -> bool:
        limit = 0 if self.batch.on_error == "raise" else self.batch.max_failures
        return limit is not None and self.counts["failed"] > limit

    def _report(self) -> Report:
        failed, output = self.counts["failed"], self.job.output
        status, message = 0, ""
        if failed:
            status = 3
            message = f"{failed} of {self.total} inputs failed; each is named in "
            message += str(output / "failures.jsonl")
        if self._is_over():
            left = self.total - self.counts.total()
            status = 1 if self.batch.on_error == "raise" else 4
            option = "on_error=raise" if status == 1 else f"max_failures={self.batch.max_failures}"
            message = f"stopped by runner.{option}: {message}; {left} inputs were not looked at"
        return self._as_report(status, message)

    def _as_report(self, status: int, message: str) -> Report:
        return Report(
            exit_status=status,
            output=self.job.output,
            counts={"done": self.counts["done"], "failed": self.counts["failed"]},
            detections=dict(self.detections),
            timings=self.seconds,
            wall_s=time.monotonic() - self.started,
            message=message,
        )

    def _interrupted(self, exc: BaseException) -> None:
        """Leave a record that tells the truth, if it can still be written."""
        status = getattr(exc, "exit_status", 130 if isinstance(exc, KeyboardInterrupt) else 1)
        with suppress(OSError):  # the disk may be what ended it
            self.record.finish(self._as_report(status, f"{type(exc).__name__}: {exc}"))


def _clear(output: Path) -> None:
    """Remove an earlier run's results, so that none of them can be taken for this one's."""
    if not (output / "run.json").exists():
        return  # whatever lies there is not a run's
    for name in _FILES:
        (output / name).unlink(missing_ok=True)
    for name in _FOLDERS:
        if not (output / name).is_symlink():
            shutil.rmtree(output / name, ignore_errors=True)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send the log, warnings and tracebacks to ``run.log`` while the block runs."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as exc:
        raise OutputError(f"cannot write the output {path}: {exc.strerror}") from exc
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    # a full disk: the run says so itself, once
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    except Exception as exc:
        if not isinstance(exc, ConfigError):
            _log.exception("the run ended early")
        raise
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(level)
        with suppress(OSError):
            handler.close()


def _where(error: PipelineError) -> str:
    stage = error.stage if isinstance(error, AssetError) else ""
    return f"{stage}: {error}" if stage else str(error)
