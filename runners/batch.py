"""``runner=batch``: processes every input once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from pipeline.errors import ConfigError, OutputError, OutputLockedError
from pipeline.job import Job, Report, inputs_of
from pipeline.protocols import Asset
from pipeline.system.terminal import print_stderr
from pipeline.validation import check, check_choice, check_flag
from runners import budget
from runners.reporting.console import count_reasons
from runners.reporting.log import logged
from runners.reporting.progress import Progress, announce_loading
from runners.reporting.status import Status
from runners.reporting.summary import print_summary
from runners.reporting.tally import Tally, most_common, totals
from runners.rundir.commit import Group, Hooks, Session, finish, is_finished
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.lists import FAILURES, SKIPPED, write_skipped
from runners.rundir.lock import locked
from runners.rundir.opening import open_run
from runners.rundir.owned.aggregates import build_reports
from runners.rundir.owned.pruning import check_inputs, prune, unlisted_results
from runners.rundir.readers import file_reader
from runners.rundir.record import Record
from runners.rundir.translation import output_errors
from runners.todo import DONE, GONE, LATER, POISON, Todo, skipped_entries

_LOST = 20  # unreadable directories named on standard error


@dataclass
class Batch:
    """Runs the pipeline once over every input that is not done.

    Attributes:
        on_error: ``skip`` continues after a failed input; ``raise`` stops at the first.
        max_failures: Stop when more inputs than this have failed: a number, or a share of all
            inputs such as ``5%``; ``None``: no limit.
        on_change: What to do if the output holds results of other settings or of another input:
            ``error``; ``restart`` removes them and starts from scratch; ``extend`` keeps those of
            another input and adds to them.
        on_lock: What to do if another run has locked the output: ``error`` (exit status 11), or
            ``skip`` (exits 0 silently).
        retry_failed: Process only the inputs that failed before, including those that killed their
            worker process.
        prune: Whether to remove the results of inputs that are no longer listed. Refused if an
            input lists nothing, because a disk may not be mounted; ``all`` removes them even then.
    """

    on_error: str = "skip"
    max_failures: int | float | str | None = None
    on_change: str = "error"
    on_lock: str = "error"
    retry_failed: bool = False
    prune: bool | str = False

    def __post_init__(self) -> None:
        check_choice("on_error", self.on_error, ("skip", "raise"))
        check_choice("on_change", self.on_change, ("error", "restart", "extend"))
        check_choice("on_lock", self.on_lock, ("error", "skip"))
        check_flag("retry_failed", self.retry_failed)
        is_known = isinstance(self.prune, bool) or self.prune == "all"
        check("prune", self.prune, is_known, "true, false or all")
        budget.allowed(self.max_failures, 0)

    def run(self, job: Job) -> Report:
        """Run the job.

        Raises:
            ConfigError: There is no input, the device does not exist, or the output holds results
                of other settings; nothing was started.
            StoreError: The weights are unavailable or do not fit the model.
            OutputLockedError: Another run has locked the output.
            OutputError: The output cannot be written, or its ledger is damaged.
        """
        if job.source is None:
            raise ConfigError(
                "no input: add input=PATH (a file, a directory, a glob, a list of paths in a .txt, "
                ".csv or .parquet file, or - for paths on standard input)"
            )
        try:
            with locked(job.output), logged(job.output / "run.log"):
                report, device = self._locked(job, job.source)
        except OutputLockedError:
            if self.on_lock == "skip":
                return Report(0, job.output)
            raise
        if not job.config["quiet"]:
            print_summary(report, device, verbose=job.config["verbose"])
        return report

    def _locked(self, job: Job, source: Iterable[Asset]) -> tuple[Report, Mapping[str, Any]]:
        assets = iter(source)  # lists the input once; ``count`` uses the same listing
        total = count(source)
        status = Status(job.output, total)
        with open_run(job, self.on_change, status, can_extend=True) as opened:
            share, earlier = opened.share, opened.earlier
            if self.prune is True and earlier and earlier.counts(share.places)["done"]:
                check_inputs(source)
            failures = earlier.entries(with_error=True) if earlier else ()
            todo = Todo(
                share.distinct(assets, earlier),
                earlier,
                self.retry_failed,
                first_place=share.places.start,
                places=share.places,
                unseen_failures={
                    entry.id
                    for entry in failures
                    if entry.outcome == "failed" and entry.place in share.places
                },
                seen=set() if self.prune else None,
            )
            found = iter(todo)
            first = next(found, None)
            if first is not None:
                announce_loading(job)
            started = opened.start(load_model=first is not None)
            record = started.record
            skipped = _skipped(job)
            record.warnings += _warnings(job, total, skipped)
            for warning in record.warnings:
                print_stderr(f"warning: {warning}")
            if first is not None:
                found = chain([first], found)
            tally = Tally(status, {"load": started.load_s})
            ledger, places = started.ledger, share.places
            run = _Run(job, self, total, ledger, todo, record, tally, places, skipped)
            return run.process(found), started.device


def count(source: Iterable[Asset]) -> int:
    """Return the number of inputs."""
    return len(source) if isinstance(source, Sized) else sum(1 for _ in source)


def _skipped(job: Job) -> Counter[str]:
    """Write ``skipped.jsonl``; return the number of files in it, by reason."""
    with output_errors(job.output):
        return write_skipped(job.output, skipped_entries(job.source))


def _warnings(job: Job, total: int, skipped: Counter[str]) -> Iterator[str]:
    lost = [entry for entry in skipped_entries(job.source) if entry.lost]
    for entry in lost[:_LOST]:
        yield f"skipped: {entry.path}: {entry.reason}"
    if len(lost) > _LOST:
        yield f"skipped: {len(lost) - _LOST} more directories; see {SKIPPED}"
    if not total:
        found = f"; skipped: {count_reasons(skipped)}" if skipped else ""
        yield f"there is no image in {', '.join(inputs_of(job.config['input']))}{found}"


@dataclass
class _Run(Hooks):
    """A run in progress; counts what is committed, so that no record promises more."""

    job: Job
    batch: Batch
    total: int
    ledger: Ledger
    todo: Todo
    record: Record
    tally: Tally
    places: range
    skipped: Counter[str]

    def __post_init__(self) -> None:
        self.known = self.ledger.counts(self.places).total()
        self.removed = self.pruned = self.n_failed = 0
        limit = budget.allowed(self.batch.max_failures, self.total)
        self.limit = 0 if self.batch.on_error == "raise" else limit

    def process(self, found: Iterable[tuple[Asset, int]]) -> Report:
        """Process the assets, each with its place, and complete the output."""
        job = self.job
        try:
            self.record.start()
            with (
                file_reader(job, isolate_by_default=False) as decode,
                Session(job, self.ledger, decode, self) as session,
                Progress(self.total, quiet=job.config["quiet"]).shown() as progress,
            ):
                self._each_input(session, found, progress)
                if not self._is_over():
                    self._forget_removed()
            is_outdated = not is_finished(job, self.ledger)
            has_changed = bool(self.tally.counts or self.todo.moved or is_outdated)
            if has_changed:
                finish(job, self.ledger)
            rebuilt = is_outdated and not self.tally.counts and bool(self.ledger.counts().total())
            report = replace(self._report(), rebuilt=rebuilt)
            self.record.finish(report)
            if has_changed:
                build_reports(job, self.ledger)
        except BaseException as exc:
            self._record_failure(exc)
            raise
        return report

    def _each_input(
        self, session: Session, found: Iterable[tuple[Asset, int]], progress: Progress
    ) -> None:
        self.tally.started = time.monotonic()
        self.tally.status.update(state="running")
        outcomes = session.process(found)
        try:
            for outcome in outcomes:
                self.n_failed += outcome.error is not None
                self.tally.status.update(earlier=self.todo.not_to_do)
                progress.advance(
                    outcome.asset.id,
                    outcome.error,
                    partial=outcome.partial,
                    not_to_do=self.todo.not_to_do,
                )
                if outcome.error is not None and self._is_over():
                    break
        finally:
            outcomes.close()

    def committed(self, group: Group) -> None:
        """Count a group that is durable."""
        for _, outcome in group:
            self.tally.add(outcome)

    def _is_over(self) -> bool:
        return self.limit is not None and self.n_failed > self.limit

    def _forget_removed(self) -> None:
        """Forget failures of inputs that no longer exist; prune or report their results."""
        forgotten = self.todo.unseen_failures
        if forgotten:
            self.ledger.remove(forgotten)
            self.ledger.set_fact("finished", False)
            self.ledger.commit()
        unlisted = self.known - self.todo.known - len(forgotten)
        if unlisted and self.todo.seen is not None:
            lost = [one.path for one in skipped_entries(self.job.source) if one.lost]
            gone = unlisted_results(self.ledger, self.places, self.todo.seen, lost)
            self.pruned = prune(self.job, self.ledger, gone)
        self.removed = unlisted - self.pruned + self.todo.counts[GONE]
        if self.removed:
            text = (
                f"{self.removed} inputs of an earlier run no longer exist; their results are kept"
            )
            if not self.batch.prune:
                text += " (runner.prune=true removes them)"
            self.record.warnings.append(text)
            print_stderr(f"warning: {text}")

    def _report(self) -> Report:
        output, counts = self.job.output, self.tally.counts
        failed = self.ledger.counts(self.places)["failed"]
        status, message = 0, ""
        if failed:
            status = 3
            message = f"{failed} of {self.total} inputs failed; see {output / FAILURES}"
        if partial := self.ledger.n_partial(self.places):
            status = 3
            text = f"{partial} of {self.total} inputs could not be decoded in full"
            message = f"{message}; {text}" if message else f"{text}; see {output / FAILURES}"
        if again := self.todo.counts[POISON]:
            message += f"; {again} of them killed their worker process before and were not retried"
        if self._is_over():
            left = self.total - counts["done"] - counts["failed"] - self.todo.not_to_do
            status = 1 if self.batch.on_error == "raise" else 4
            option = "on_error=raise" if status == 1 else f"max_failures={self.batch.max_failures}"
            message = f"stopped by runner.{option}: {message}; {left} inputs were not processed"
        return self._as_report(status, message)

    def _as_report(self, status: int, message: str) -> Report:
        seen = self.todo.counts
        more = {
            "earlier": seen[DONE] + seen[GONE],
            "later": seen[LATER],
            "not_retried": seen[POISON],
            "removed": self.removed,
            "pruned": self.pruned,
        }
        report = self.tally.report(self.job.output, status, message, **more)
        return replace(
            report, totals=totals(self.ledger.counts()), skipped=most_common(self.skipped)
        )

    def _record_failure(self, exc: BaseException) -> None:
        """Complete the record, if it can still be written."""
        status = getattr(exc, "exit_status", 130 if isinstance(exc, KeyboardInterrupt) else 1)
        with suppress(OSError, OutputError):  # the disk may be what failed
            self.record.finish(self._as_report(status, f"{type(exc).__name__}: {exc}"))
