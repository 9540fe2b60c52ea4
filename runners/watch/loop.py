"""Look, do what is ready, keep house, wait: a watch under way."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.errors import OutputError, RootGoneError
from pipeline.job import Report
from runners.reporting.log import Log
from runners.reporting.tally import most_common, totals
from runners.rundir.ledger.ledger import LedgerDamagedError
from runners.rundir.ledger.source_files import SourceFile
from runners.rundir.record import Record
from runners.watch.inbox.events import Events
from runners.watch.inbox.inbox import Inbox
from runners.watch.signals import Wishes
from runners.watch.troubles import Troubles
from runners.watch.work import DRAIN_S, Work

if TYPE_CHECKING:
    from runners.watch.runner import Watch

_AT_ONCE = 500
_PATIENCE = 3  # settle times that a single pass waits for files that keep changing
_BACK_OFF_S = (1.0, 60.0)
_FINISHING = 0.05  # share of the time: aggregates are made of all that was ever done
_log = logging.getLogger("d2run")


@dataclass
class Watching:
    """A watch under way."""

    watch: Watch
    work: Work
    inbox: Inbox
    events: Events
    record: Record
    log: Log
    troubles: Troubles
    wishes: Wishes = field(default_factory=Wishes)

    def __post_init__(self) -> None:
        self.status = self.troubles.status
        self.is_limited = self.watch.max_passes is not None
        self.passes = 0
        self.pass_began_s: float | None = None
        self.look_at_s = self.finished_s = time.monotonic()
        self.finish_due = False
        self.back_off_s, self.retry_at_s = _BACK_OFF_S[0], 0.0

    def carry_out(self) -> Report:
        """Watch until it is over.

        Raises:
            OutputError: The output cannot be written at the start or the end, its ledger is
                damaged, or it failed in a run of few passes.
            RootGoneError: In a run of few passes.
        """
        self.work.wishes = self.wishes
        try:
            self.record.start()
            self.work.open()
            self._recall()
            self.status.health(True)
            while not self._is_over():
                pause_s = self._guarded_round()
                if self.troubles.now or not self.work.waiting:
                    self.status.update(state="idle")
                self.status.update(pending=self._n_pending())
                if not self._is_over() and self.events.wait(pause_s):
                    soon = self.inbox.pause_s(0.0, woken=True)
                    self.look_at_s = min(self.look_at_s, time.monotonic() + soon)
            self.status.update(state="draining")
            report = self._end()
            self.record.finish(report)
        except BaseException as exc:
            with suppress(OutputError):
                self.work.close()
            with suppress(OSError, OutputError):
                status = getattr(exc, "exit_status", 1)
                self.record.finish(self._report(status, f"{type(exc).__name__}: {exc}"))
            raise
        return report

    def _recall(self) -> None:
        """Tell the inbox what is done, so that it need not be looked at again.

        Not if files are to be moved: one that a killed run could not move is still there.
        """
        if self.watch.after != "keep":
            return
        entries = self.work.ledger.entries()
        while chunk := list(islice(entries, _AT_ONCE)):
            files = self.work.files.of_ids([entry.id for entry in chunk])
            for entry in chunk:
                poison = entry.error == "PoisonError" and not self.watch.retry_failed
                if entry.size is None or entry.mtime_ns is None:
                    continue
                file = files.get(entry.id) or SourceFile(entry.id, entry.id)
                if (entry.outcome == "done" or poison) and not file.gone:
                    self.inbox.remember(file.name, entry.size, entry.mtime_ns)

    def _guarded_round(self) -> float:
        """Do what there is to do; return how long to wait. What fails now may work later."""
        now_s = time.monotonic()
        if now_s < self.retry_at_s and not self.wishes.anew:
            return self.retry_at_s - now_s  # events come more often than room on a disk
        try:
            pause_s = self._round(now_s)
        except OutputError as exc:
            if self.is_limited or isinstance(exc, LedgerDamagedError):
                raise
            self.work.give_up()
            self.troubles.begin("output", exc)
            pause_s, self.back_off_s = self.back_off_s, min(2 * self.back_off_s, _BACK_OFF_S[1])
            self.retry_at_s = time.monotonic() + pause_s
            return pause_s
        self.back_off_s = _BACK_OFF_S[0]
        self.troubles.end("output")
        return pause_s

    def _round(self, now_s: float) -> float:
        if self.wishes.anew:
            self.wishes.anew, self.finish_due = False, True
            self.log.start_new()
        is_there = self._look(now_s)
        if is_there and not self._is_over():
            if self.work.waiting:
                self.status.update(state="running", pending=self._n_pending())
            self.work.do_some()
        self._keep_house()
        if is_there and self.work.waiting:
            return 0.0
        due_s = self.inbox.due_in_s() if is_there else None
        if self.is_limited and self.pass_began_s is not None:
            waited_s = time.monotonic() - self.pass_began_s
            waits = waited_s <= _PATIENCE * self.watch.settle_s or self.inbox.has_doubts
            if due_s is None or not waits:
                self.passes, self.pass_began_s = self.passes + 1, None
        pause_s = self.look_at_s - time.monotonic()
        return max(0.0, pause_s if due_s is None else min(pause_s, due_s))

    def _look(self, now_s: float) -> bool:
        """Take what is ready; a pass of a limited run looks but once for what is new.

        Returns:
            Whether the folder is there.
        """
        begins = self.is_limited and self.pass_began_s is None
        if begins:
            self.pass_began_s = now_s
        if begins or (now_s >= self.look_at_s and not self.is_limited):
            try:
                arrivals = self.inbox.look(deep=self.inbox.deep_is_due())
                if self.work.moving.recover():
                    arrivals += self.inbox.look()
            except RootGoneError as exc:
                if self.is_limited:
                    raise
                self.troubles.begin("root", exc)
                self.look_at_s = time.monotonic() + self.watch.poll_s
                return False
            self.troubles.end("root")
            self.look_at_s = time.monotonic() + self.inbox.pause_s(self.watch.poll_s)
        elif "root" in self.troubles:
            return False
        else:
            arrivals = self.inbox.settle()
        self.work.waiting |= {arrival.id: arrival for arrival in arrivals}
        return True

    def _keep_house(self) -> None:
        """Do what is due from time to time."""
        for line in self.inbox.news():
            _log.info("%s", line)
        self.work.moving.settle_late()
        every_s = max(self.watch.finalise_every_s, self.work.finish_s() / _FINISHING)
        if time.monotonic() - self.finished_s >= every_s and self.watch.finalise_every_s > 0:
            self.finish_due = True
        if self.finish_due:
            self.work.finish()
            self.finish_due, self.finished_s = False, time.monotonic()

    def _n_pending(self) -> int:
        return self.inbox.n_pending + len(self.work.waiting)

    def _is_over(self) -> bool:
        if self.wishes.status is not None or self.work.is_over_budget():
            return True
        return self.watch.max_passes is not None and self.passes >= self.watch.max_passes

    def _end(self) -> Report:
        """Bring the output to its end, unless who asked for the end would wait too long."""
        left_s = self.wishes.stopped_s + DRAIN_S - time.monotonic()
        if self.wishes.status is None or self.work.finish_s() < left_s:
            self.work.finish()
        else:
            self.work.close()
            _log.info("the aggregates are left to the next run: they would take too long now")
        output, failed = self.work.job.output, len(self.work.account.failing)
        status, message = self.wishes.status or 0, ""
        if failed:
            message = f"{failed} inputs failed; each is named in {output / 'failures.jsonl'}"
        if status == 130:
            message = "interrupted; what was begun is finished and kept"
        elif self.wishes.status is None and failed:
            status = 3
        if self.work.is_over_budget():
            status = 4
            message = f"stopped by runner.max_failures={self.watch.max_failures}: {message}"
        elif self.is_limited and not status and "move" in self.troubles:
            status, message = 1, self.troubles.now["move"]
        self.work.account.close()
        return self._report(status, message)

    def _report(self, status: int, message: str) -> Report:
        """Return the end of the run; its wall is the time at work, not that of waiting."""
        report = self.work.tally.report(self.work.job.output, status, message)
        held = totals(self.work.ledger.counts())
        skipped = most_common(self.inbox.skipped)
        return replace(report, wall_s=self.work.worked_s, totals=held, skipped=skipped)
