"""Once over the input."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from pipeline.config import Job
from pipeline.errors import AssetError, ConfigError, OutputLockedError, PipelineError
from pipeline.protocols import Asset
from pipeline.types import Outcome, Report
from runners import budget
from runners.console import Progress, print_summary, say
from runners.ledger import NAME as LEDGER
from runners.ledger import Ledger
from runners.lock import locked
from runners.log import logged
from runners.record import Record
from runners.session import Session, check_settings, finish, open_ledger, translated
from runners.status import Status
from runners.todo import GONE, POISON, Todo

_log = logging.getLogger("d2run")


@dataclass
class Batch:
    """Runs the pipeline once over every input that is not done yet.

    Attributes:
        on_error: ``skip`` goes on after an input that failed; ``raise`` stops at the first.
        max_failures: Stop when more inputs than this have failed: a number, or a share of all
            inputs such as ``5%``; ``None`` for no limit.
        on_change: What to do with results of other settings in the output: ``error``, or
            ``restart`` to remove them and do everything anew.
        on_lock: What to do when another run holds the output: ``error`` (exit status 11), or
            ``skip`` (0, and not a word).
        retry_failed: Do only the inputs that failed, those too that are not tried again otherwise.
    """

    on_error: str = "skip"
    max_failures: int | float | str | None = None
    on_change: str = "error"
    on_lock: str = "error"
    retry_failed: bool = False

    def __post_init__(self) -> None:
        one_of("on_error", self.on_error, "skip", "raise")
        one_of("on_change", self.on_change, "error", "restart")
        one_of("on_lock", self.on_lock, "error", "skip")
        budget.allowed(self.max_failures, 0)

    def run(self, job: Job) -> Report:
        """Carry out the job.

        Raises:
            ConfigError: There is no input, the device does not exist, or the output holds results
                of other settings; nothing was started.
            StoreError: The weights cannot be had or do not fit.
            OutputLockedError: Another run holds the output.
            OutputError: The output cannot be written, or its ledger is damaged.
        """
        if job.source is None:
            raise ConfigError(
                "no input: add input=PATH (a file, a folder, a glob, a list of paths in a .txt or "
                ".csv file, or - for paths on standard input)"
            )
        try:
            with locked(job.output), logged(job.output / "run.log"):
                report, ran_on = self._locked(job, job.source)
        except OutputLockedError:
            if self.on_lock == "skip":
                return Report(0, job.output)
            raise
        if not job.config["quiet"]:
            print_summary(report, ran_on)
        return report

    def _locked(self, job: Job, source: Iterable[Asset]) -> tuple[Report, str]:
        total = count(source)
        with ExitStack() as stack:
            ledger = open_ledger(job, self.on_change)
            if ledger is not None:
                stack.enter_context(ledger)
            todo = Todo(source, ledger, self.retry_failed)
            found = iter(todo)
            first = next(found, None)
            started = time.monotonic()
            device: dict[str, Any] = {"device": job.config["device"]}
            if first is not None:  # where nothing is to be done no model is needed
                stack.enter_context(job.runnable)
                device = getattr(job.runnable, "describe", lambda: device)()
            if ledger is None:
                with translated(job.output):
                    ledger = stack.enter_context(Ledger(job.output / LEDGER))
            check_settings(job, ledger, loaded=first is not None)
            warnings = [*_warnings(job, total)]
            for warning in warnings:
                say(f"warning: {warning}")
            seconds = {"load": time.monotonic() - started}
            record = Record(job, device, warnings)
            run = _Run(job, self, total, ledger, todo, record, seconds)
            first_and_rest = chain([first], found) if first is not None else found
            return run.carry_out(first_and_rest), record.ran_on()


def one_of(option: str, value: str, *choices: str) -> None:
    """Raise ConfigError unless a runner's option has one of its values."""
    if value not in choices:
        raise ConfigError(f"runner.{option} is '{value}'; it must be {' or '.join(choices)}")


def count(source: Iterable[Asset]) -> int:
    """Return how many inputs there are."""
    return len(source) if isinstance(source, Sized) else sum(1 for _ in source)


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
    ledger: Ledger
    todo: Todo
    record: Record
    seconds: dict[str, float]
    counts: Counter[str] = field(default_factory=Counter)
    detections: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.known = self.ledger.counts().total()
        limit = budget.allowed(self.batch.max_failures, self.total)
        self.limit = 0 if self.batch.on_error == "raise" else limit

    def carry_out(self, found: Iterable[tuple[Asset, int]]) -> Report:
        job = self.job
        try:
            self.record.start()
            with (
                Status(job.output, self.total) as self.status,
                Session(job, self.ledger) as session,
                Progress(self.total).shown() as progress,
            ):
                self._each_input(session, found, progress)
            if not self._is_over():
                self._forget_removed()
            if self.counts or not self.ledger.fact("finished"):
                finish(job, self.ledger)
            report = self._report()
            self.record.finish(report)
        except BaseException as exc:
            self._interrupted(exc)
            raise
        return report

    def _each_input(
        self, session: Session, found: Iterable[tuple[Asset, int]], progress: Progress
    ) -> None:
        self.started = time.monotonic()
        self.status.update(state="running")
        outcomes = session.process(found)
        try:
            for outcome in outcomes:
                self._count(outcome)
                progress.advance(self.todo.skipped)
                self.status.update(skipped=self.todo.skipped)
                if outcome.error is not None:
                    _log.error("%s: %s", outcome.asset.id, outcome.error, exc_info=outcome.error)
                    progress.say(f"error: {outcome.asset.id}: {_where(outcome.error)}")
                    if self._is_over():
                        break
        finally:
            outcomes.close()

    def _count(self, outcome: Outcome) -> None:
        kind: Literal["failed", "done"] = "failed" if outcome.error else "done"
        self.counts[kind] += 1
        self.detections.update(outcome.detections)
        instances = sum(outcome.detections.values())
        self.status.advance(kind, outcome.asset.id, seconds=outcome.timings, instances=instances)
        for step, seconds in outcome.timings.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    def _is_over(self) -> bool:
        return self.limit is not None and self.counts["failed"] > self.limit

    def _forget_removed(self) -> None:
        """Forget failures of inputs that are no more; of others keep the results, and say so."""
        if self.todo.unseen_failures:
            self.ledger.remove(self.todo.unseen_failures)
            self.ledger.state("finished", False)
            self.ledger.commit()
        gone = self.known - self.todo.known - len(self.todo.unseen_failures)
        gone += self.todo.counts[GONE]
        if gone:
            self.counts["removed"] = gone
            text = f"{gone} inputs of an earlier run are not there any more; their results are kept"
            self.record.warnings.append(text)
            say(f"warning: {text}")

    def _report(self) -> Report:
        output = self.job.output
        failed = self.ledger.counts()["failed"]
        status, message = 0, ""
        if failed:
            status = 3
            message = f"{failed} of {self.total} inputs failed; each is named in "
            message += str(output / "failures.jsonl")
        if again := self.todo.counts[POISON]:
            message += f"; {again} of them killed their worker before and were not tried again"
        if self._is_over():
            left = self.total - self.counts["done"] - self.counts["failed"] - self.todo.skipped
            status = 1 if self.batch.on_error == "raise" else 4
            option = "on_error=raise" if status == 1 else f"max_failures={self.batch.max_failures}"
            message = f"stopped by runner.{option}: {message}; {left} inputs were not looked at"
        return self._as_report(status, message)

    def _as_report(self, status: int, message: str) -> Report:
        counts = {"done": self.counts["done"], "failed": self.counts["failed"]}
        more = {"skipped": self.todo.skipped, "removed": self.counts["removed"]}
        return Report(
            exit_status=status,
            output=self.job.output,
            counts=counts | {name: number for name, number in more.items() if number},
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


def _where(error: PipelineError) -> str:
    stage = error.stage if isinstance(error, AssetError) else ""
    return f"{stage}: {error}" if stage else str(error)
