"""The loop of a watch: scan, process what arrived, finalize, wait."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from pipeline.errors import (
    LedgerDamagedError,
    OutputError,
    PipelineError,
    RootGoneError,
    WorkersLostError,
)
from pipeline.job import Report
from pipeline.protocols import Warns
from runners.reporting.log import Log
from runners.reporting.tally import most_common, totals
from runners.rundir.ledger.source_files import SourceFile
from runners.rundir.record import Record
from runners.watch.health import HealthIssues
from runners.watch.inbox.events import Events
from runners.watch.inbox.inbox import Inbox
from runners.watch.messages import Messages, kept_results
from runners.watch.options import WatchOptions
from runners.watch.processing import Processing
from runners.watch.schedule import Schedule
from runners.watch.signals import StopRequests

_CHUNK = 500  # ledger entries per query
_log = logging.getLogger("d2run")


@dataclass
class WatchLoop:
    """A watch in progress.

    Attributes:
        options: The runner's options.
        schedule: Decides when to do what.
        processing: Processes arrivals.
        inbox: Finds them.
        events: Ends a wait when something changes.
        record: The record of the run.
        log: The log of the run.
        health: The current health issues.
        requests: The requests that signals have made.
        messages: Prints messages for the user.
    """

    options: WatchOptions
    schedule: Schedule
    processing: Processing
    inbox: Inbox
    events: Events
    record: Record
    log: Log
    health: HealthIssues
    requests: StopRequests
    messages: Messages

    def __post_init__(self) -> None:
        self.status = self.health.status
        self.is_limited = self.options.max_passes is not None

    def run(self) -> Report:
        """Watch until a stop is requested or a limit is reached.

        Raises:
            OutputError: The output cannot be written at the start or the end, its ledger is
                damaged, or it cannot be written in a run with ``max_passes``.
            WorkersLostError: No worker answers, in a run with ``max_passes``.
            RootGoneError: The folder is gone, in a run with ``max_passes``.
        """
        try:
            self.record.start()
            self.processing.open()
            self._remember_results()
            self.status.health(True)
            while not self._is_over():
                pause_s = self._try_round()
                if self.health.current or not self.processing.waiting:
                    self.status.update(state="idle")
                self.status.update(pending=self._n_pending())
                if not self._is_over():
                    self._wait(pause_s)
            self.status.update(state="draining")
            report = self._end()
            if isinstance(self.processing.executor, Warns):
                self.record.warnings += self.processing.executor.warnings
            self.record.finish(report)
        except BaseException as exc:
            with suppress(OutputError):
                self.processing.close()
            with suppress(OSError, OutputError):
                status = exc.exit_status if isinstance(exc, PipelineError) else 1
                self.record.finish(self._report(status, f"{type(exc).__name__}: {exc}"))
            raise
        return report

    def _remember_results(self) -> None:
        """Pass the versions that are done to the inbox, so that it does not return them again.

        Not if files are moved or deleted: a killed run may have left one whose result is committed.
        """
        if self.options.after != "keep":
            return
        entries = self.processing.ledger.entries()
        while chunk := list(islice(entries, _CHUNK)):
            files = self.processing.files.of_ids([entry.id for entry in chunk])
            for entry in chunk:
                is_final = entry.error == "PoisonError" and not self.options.retry_failed
                if entry.size is None or entry.mtime_ns is None:
                    continue
                file = files.get(entry.id) or SourceFile(entry.id, entry.id)
                if (entry.outcome == "done" or is_final) and not file.gone:
                    self.inbox.remember(file.name, entry.size, entry.mtime_ns)

    def _wait(self, pause_s: float) -> None:
        """Wait, at most so many seconds, until something changes or a signal arrives."""
        if pause_s > 0 and not self.health.current:
            name, n_files = self.inbox.settling()
            if name is not None:
                self.messages.waiting_to_settle(name, n_files)
            elif not self.is_limited:
                folder = str(self.processing.job.config["input"])
                self.messages.waiting_for_files(folder, self.options.poll_s)
        if self.events.wait(pause_s):
            self.schedule.expedite_scan()

    def _try_round(self) -> float:
        """Do one round; an output that cannot be written, or workers that are gone, wait.

        Returns:
            How long to wait for the next round, in seconds.
        """
        retry_in_s = self.schedule.retry_in_s()
        if retry_in_s > 0 and not self.requests.refresh:
            return retry_in_s  # an event does not show whether the disk has space again
        try:
            pause_s = self._round()
        except (OutputError, WorkersLostError) as exc:
            if self.is_limited or isinstance(exc, LedgerDamagedError):
                raise
            self.processing.abort()
            self.health.report("output" if isinstance(exc, OutputError) else "workers", exc)
            return self.schedule.back_off()
        self.schedule.record_success()
        self.health.resolve("output")
        self.health.resolve("workers")
        return pause_s

    def _round(self) -> float:
        if self.requests.refresh:
            self.requests.refresh = False
            self.schedule.request_finalize()
            self.log.start_new()
        is_there = self._find_arrivals()
        if is_there and not self._is_over():
            if self.processing.waiting:
                self.status.update(state="running", pending=self._n_pending())
            self.processing.process_chunk()
        self._maintain()
        if is_there and self.processing.waiting:
            return 0.0
        due_s = self.inbox.due_in_s() if is_there else None
        if self.is_limited:
            may_wait = self.schedule.pass_has_time() or self.inbox.has_retries
            if due_s is None or not may_wait:
                self.schedule.end_pass()
        pause_s = self.schedule.next_scan_in_s()
        return pause_s if due_s is None else min(pause_s, due_s)

    def _find_arrivals(self) -> bool:
        """Add complete files to the waiting arrivals; each pass of a limited run scans once.

        Returns:
            Whether the watched folder is there.
        """
        is_due = self.schedule.start_pass() if self.is_limited else self.schedule.scan_is_due()
        if is_due:
            try:
                arrivals = self.inbox.scan(deep=self.schedule.deep_scan_is_due())
                if self.processing.mover.recover():
                    arrivals += self.inbox.scan()
            except RootGoneError as exc:
                if self.is_limited:
                    raise
                self.health.report("input", exc)
                self.schedule.schedule_failed_scan()
                return False
            self.health.resolve("input")
            self.schedule.schedule_scan()
        elif "input" in self.health:
            return False
        else:
            arrivals = self.inbox.check_settled()
        self.processing.waiting |= {arrival.id: arrival for arrival in arrivals}
        return True

    def _maintain(self) -> None:
        """Report skipped files, retry moves and finalize, as far as each is due."""
        for line in self.inbox.skipped_report():
            _log.info("%s", line)
        self.messages.update()
        self.processing.mover.retry()
        if self.schedule.finalize_is_due(self._journal_bytes()):
            self.processing.finalize()

    def _journal_bytes(self) -> int:
        return self.processing.ledger.position.size

    def _n_pending(self) -> int:
        return self.inbox.n_pending + len(self.processing.waiting)

    def _is_over(self) -> bool:
        if self.requests.stop or self.processing.is_over_budget():
            return True
        return self.options.max_passes is not None and (
            self.schedule.n_passes >= self.options.max_passes
        )

    def _end(self) -> Report:
        """Finalize the output, unless that takes longer than a requested stop allows."""
        left_s = self.schedule.drain_left_s(self.requests.requested_s)
        if self.schedule.expected_finalize_s(self._journal_bytes()) < left_s:
            self.processing.finalize()
        else:
            self.processing.close()
            _log.info("the aggregates are left to the next run: they would take too long now")
        output, n_failed = self.processing.job.output, len(self.processing.unreported.failing)
        status, message = self.requests.exit_status or 0, ""
        if n_failed:
            inputs = "1 input" if n_failed == 1 else f"{n_failed} inputs"
            message = f"{inputs} failed. See {output / 'failures.jsonl'}"
        self.messages.flush()
        if self.requests.stop:
            n_results = self.processing.ledger.counts()["done"]
            if status == 130:
                message = f"interrupted; {kept_results(n_results, output)}"
            else:
                self.messages.stopped(n_results, output)
            self.messages.resume_command(output)
        elif n_failed:
            status = 3
        if self.processing.is_over_budget():
            status = 4
            message = f"stopped by runner.max_failures={self.options.max_failures}: {message}"
        elif self.is_limited and not status and "move" in self.health:
            status, message = 1, self.health.current["move"]
        self.processing.unreported.reset()
        return self._report(status, message)

    def _report(self, status: int, message: str) -> Report:
        """Return the report of the run; its wall time is the time spent processing."""
        report = self.processing.tally.report(self.processing.job.output, status, message)
        held = totals(self.processing.ledger.counts())
        skipped = most_common(self.inbox.skipped)
        return replace(report, wall_s=self.processing.busy_s, totals=held, skipped=skipped)
