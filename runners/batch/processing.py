"""Processes the inputs of a batch, counts what is committed, and completes the output."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace

from pipeline.engine.local import LocalExecutor
from pipeline.errors import OutputError
from pipeline.job import Executor, Job, Report
from pipeline.protocols import Asset, Warns
from pipeline.system.terminal import print_stderr
from runners import budget
from runners.batch.live import LiveInput
from runners.batch.options import BatchOptions
from runners.reporting.progress import Progress
from runners.reporting.tally import Tally, most_common, totals, verdict
from runners.rundir.commit import Group, Hooks, Session, finish, is_finished
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.lists import FAILURES
from runners.rundir.owned.aggregates import build_reports
from runners.rundir.owned.pruning import prune, unlisted_results
from runners.rundir.readers import file_reader
from runners.rundir.record import Record
from runners.todo import DONE, GONE, LATER, POISON, Todo, fetched_ahead, skipped_entries


@dataclass
class Processing(Hooks):
    """A run in progress; counts what is committed, so that no record promises more."""

    job: Job
    options: BatchOptions
    total: int | None
    ledger: Ledger
    todo: Todo
    record: Record
    tally: Tally
    places: range
    skipped: Counter[str]
    live: LiveInput | None = None
    executor: Executor | None = None  # by default, threads of this process

    def __post_init__(self) -> None:
        self.known = self.ledger.counts(self.places).total()
        self.removed = self.pruned = self.n_failed = 0
        limit = budget.allowed(self.options.max_failures, self.total or 0)
        self.limit = 0 if self.options.on_error == "raise" else limit

    def process(self, found: Iterable[tuple[Asset, int]]) -> Report:
        """Process the assets, each with its place, and complete the output."""
        job = self.job
        try:
            self.record.start()
            reader = nullcontext() if self.executor else file_reader(job, isolate_by_default=False)
            with (
                reader as decode,
                Progress(self.total, quiet=job.config["quiet"]).shown() as progress,
                Session(job, self.ledger, decode, self, self._executor(progress)) as session,
            ):
                self._each_input(session, found, progress)
                if self.live is None and not self._is_over():
                    self._forget_removed()
            for warning in self._late_warnings():
                self._warn(warning)
            is_outdated = not is_finished(job, self.ledger)
            has_changed = bool(self.tally.counts or self.todo.moved or is_outdated)
            if has_changed:
                finish(job, self.ledger)
            rebuilt = is_outdated and not self.tally.counts and bool(self.ledger.counts().total())
            report = replace(self._report(), rebuilt=rebuilt)
            self.record.complete(report, self.options.key)
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
        found = _noting_videos(found, progress)
        # another executor fetches where it works
        outcomes = session.process(found if self.executor else fetched_ahead(found))
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
            if self.live is not None:  # or a thread would wait for its next frame
                self.live.source.close()
            outcomes.close()

    def _executor(self, progress: Progress) -> Executor:
        return self.executor or LocalExecutor(self.job, progress.forwarded)

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
            if not self.options.prune:
                text += " (runner.prune=true removes them)"
            self._warn(text)

    def _late_warnings(self) -> list[str]:
        warnings = self.live.warnings() if self.live is not None else []
        return warnings + (self.executor.warnings if isinstance(self.executor, Warns) else [])

    def _warn(self, text: str) -> None:
        self.record.warnings.append(text)
        print_stderr(f"warning: {text}")

    def _report(self) -> Report:
        output, counts = self.job.output, self.tally.counts
        failed = self.ledger.counts(self.places)["failed"]
        total = self.ledger.counts(self.places).total() if self.total is None else self.total
        partial = self.ledger.n_partial(self.places)
        status, message = verdict(failed, partial, total, output / FAILURES)
        if again := self.todo.counts[POISON]:
            message += f"; {again} of them killed their worker process before and were not retried"
        if self._is_over():
            left = total - counts["done"] - counts["failed"] - self.todo.not_to_do
            status = 1 if self.options.on_error == "raise" else 4
            option = (
                "on_error=raise" if status == 1 else f"max_failures={self.options.max_failures}"
            )
            message = f"stopped by runner.{option}: {message}; {left} inputs were not processed"
        if self.live is not None:
            status, message = self.live.verdict(status, message)
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
            report,
            totals=totals(self.ledger.counts()),
            skipped=most_common(self.skipped),
            interrupted=self.live is not None and self.live.exit_status is not None,
        )

    def _record_failure(self, exc: BaseException) -> None:
        """Complete the record, if it can still be written."""
        status = getattr(exc, "exit_status", 130 if isinstance(exc, KeyboardInterrupt) else 1)
        with suppress(OSError, OutputError):  # the disk may be what failed
            self.record.finish(self._as_report(status, f"{type(exc).__name__}: {exc}"))


def _noting_videos(
    found: Iterable[tuple[Asset, int]], progress: Progress
) -> Iterator[tuple[Asset, int]]:
    for asset, place in found:
        progress.has_videos |= not asset.is_still
        yield asset, place
