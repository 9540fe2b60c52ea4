"""A folder watched for months: each version of a file that has arrived whole is done once."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.config import Job
from pipeline.errors import ConfigError, OutputError, OutputLockedError, RootGoneError
from pipeline.files import expanded
from pipeline.protocols import Asset
from pipeline.sources import ImageAsset
from pipeline.sources.decode import MAX_PIXELS
from pipeline.sources.workers import DecodingStopped
from pipeline.types import Report
from runners import budget
from runners.console import print_summary, say, told
from runners.ledger import NAME as LEDGER
from runners.ledger import Entry, Ledger, LedgerDamagedError
from runners.lock import locked
from runners.log import Log, logged
from runners.opening import check_settings, one_of, open_ledger, reader
from runners.record import Record
from runners.session import Session, finish, is_finished, translated
from runners.status import Status
from runners.tally import Tally
from runners.todo import POISON, TO_DO, Todo
from runners.watch.after import After
from runners.watch.events import Events
from runners.watch.inbox import Inbox
from runners.watch.signals import Wishes, heeded
from runners.watch.versions import Arrival

_AT_ONCE = 256  # arrivals between two looks at the folder
_DRAIN_S = 8.0
_PATIENCE = 3  # settle times that a single pass waits for files that keep changing
_BACK_OFF_S = (1.0, 60.0)
_LEAST_SAMPLE = 20  # inputs before a share of failures means anything
_log = logging.getLogger("d2run")


@dataclass
class Watch:
    """Does every file that arrives in a folder, until it is told to stop.

    Attributes:
        ready: When a file is complete: ``settled``, when it has not changed for ``settle_s``;
            ``marker``, when ``<name><marker>`` lies beside it; ``rename``, as soon as it has its
            name, for writers that use temporary ones before.
        settle_s: Seconds.
        marker: Suffix of the marker's name.
        ignore: Patterns of names, or of paths below the folder, to leave out.
        poll_s: Seconds between looks at the folder; events make it look sooner.
        events: Whether to ask the kernel for events.
        after: What becomes of a file that is done: ``keep``, ``move`` or ``delete``; with both,
            what failed is moved to ``failed``.
        done: Where ``move`` puts what is done; by default ``done`` in the folder.
        failed: Where it puts what failed; by default ``failed`` in the folder.
        finalise_every_s: Seconds between aggregates (``coco.json``), when something was done.
        max_passes: Stop after so many looks at the folder and the work they gave; for cron.
        max_failures: Stop, with exit status 4, when more have failed since the start: a number,
            or a share of what was done (``5%``).
        metrics_port: Serve Prometheus metrics at this port of 127.0.0.1.
        on_change: As of ``runner=batch``, and so is ``on_lock``.
        retry_failed: At the start, try again those inputs too that killed their worker.
    """

    ready: Literal["settled", "marker", "rename"] = "settled"
    settle_s: float = 5.0
    marker: str = ".done"
    ignore: list[str] = field(default_factory=list)
    poll_s: float = 10.0
    events: bool = True
    after: Literal["keep", "move", "delete"] = "keep"
    done: str | None = None
    failed: str | None = None
    finalise_every_s: float = 3600.0
    max_passes: int | None = None
    max_failures: int | float | str | None = None
    metrics_port: int | None = None
    on_change: str = "error"
    on_lock: str = "error"
    retry_failed: bool = False

    def __post_init__(self) -> None:
        one_of("ready", self.ready, "settled", "marker", "rename")
        one_of("after", self.after, "keep", "move", "delete")
        one_of("on_change", self.on_change, "error", "restart")
        one_of("on_lock", self.on_lock, "error", "skip")
        budget.allowed(self.max_failures, 0)
        for name in ("settle_s", "poll_s", "finalise_every_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"runner.{name} is {getattr(self, name)}; it must not be < 0")
        if self.max_passes is not None and self.max_passes < 1:
            raise ConfigError(f"runner.max_passes is {self.max_passes}; it must be at least 1")
        if not self.marker or "/" in self.marker:
            raise ConfigError(f"runner.marker is '{self.marker}'; it must be a part of a name")

    def run(self, job: Job) -> Report:
        """Carry out the job; ends at a signal, or after ``max_passes``.

        Raises:
            ConfigError: ``input`` is not a folder, the device does not exist, or the output holds
                results of other settings; nothing was started.
            StoreError: The weights cannot be had or do not fit.
            OutputLockedError: Another run holds the output.
            OutputError: The output cannot be written at the start, or its ledger is damaged.
        """
        given = job.config["input"]
        if given is None or given == "-" or not expanded(given).is_dir():
            raise ConfigError(f"runner=watch watches a folder, and input={given} is none")
        try:
            with locked(job.output), logged(job.output / "run.log") as log:
                report, ran_on = self._locked(job, log)
        except OutputLockedError:
            if self.on_lock == "skip":
                return Report(0, job.output)
            raise
        if not job.config["quiet"]:
            print_summary(report, ran_on)
        return report

    def _locked(self, job: Job, log: Log) -> tuple[Report, str]:
        root = expanded(job.config["input"])
        done, failed = (expanded(p) if p else root / name
                        for p, name in ((self.done, "done"), (self.failed, "failed")))  # fmt: skip
        marker = self.marker if self.ready == "marker" else None
        leave_out = [job.output, done, failed] if self.after != "keep" else [job.output]
        with ExitStack() as stack:
            ledger = open_ledger(job, self.on_change)
            if ledger is not None:
                stack.enter_context(ledger)
            started = time.monotonic()
            stack.enter_context(job.runnable)
            if ledger is None:
                with translated(job.output):
                    ledger = stack.enter_context(Ledger(job.output / LEDGER))
            check_settings(job, ledger, loaded=True)
            describe = getattr(job.runnable, "describe", lambda: {"device": job.config["device"]})
            status = Status(job.output, metrics=True, metrics_port=self.metrics_port)
            tally = Tally(stack.enter_context(status), {"load": time.monotonic() - started})
            inbox = Inbox(
                root,
                ready=self.ready,
                settle_s=self.settle_s,
                marker=self.marker,
                ignore=self.ignore,
                recursive=job.config["source"].get("recursive", True),
                leave_out=leave_out,
            )
            watching = _Watching(
                job,
                self,
                ledger,
                Record(job, describe(), list(getattr(job.model, "warnings", []))),
                tally,
                log,
                inbox,
                stack.enter_context(Events(root, events=self.events, leave_out=leave_out)),
                After(self.after, root, done, failed, marker=marker),
                stack.enter_context(reader(job, by_default=True)),
            )
            late = getattr(watching.reader, "close", watching.events.wake)
            with heeded(watching.events.wake, late, _DRAIN_S) as watching.wishes:
                return watching.carry_out(), watching.record.ran_on()


@dataclass
class _Watching:
    """A watch under way."""

    job: Job
    watch: Watch
    ledger: Ledger
    record: Record
    tally: Tally
    log: Log
    inbox: Inbox
    events: Events
    after: After
    reader: Any
    wishes: Wishes = field(default_factory=Wishes)

    def __post_init__(self) -> None:
        self.waiting: dict[str, Arrival] = {}  # to be done and committed
        self.unmoved: list[tuple[Arrival, bool]] = []
        self.session: Session | None = None
        self.passes = 0
        self.pass_began_s: float | None = None
        self.look_at_s = self.finished_s = time.monotonic()
        self.back_off_s = _BACK_OFF_S[0]
        self.reason = ""

    def carry_out(self) -> Report:
        try:
            self.record.start()
            self._recall()
            while not self._is_over():
                pause_s = self._guarded_round()
                self.tally.status.update(state="idle", pending=self._n_pending())
                if not self._is_over() and self.events.wait(pause_s):
                    soon = self.inbox.pause_s(0.0, woken=True)
                    self.look_at_s = min(self.look_at_s, time.monotonic() + soon)
            self.tally.status.update(state="draining")
            self._finish()
            report = self._report()
            self.record.finish(report)
        except BaseException as exc:
            with suppress(OutputError):
                self._close()
            with suppress(OSError):
                status = getattr(exc, "exit_status", 1)
                text = f"{type(exc).__name__}: {exc}"
                self.record.finish(self.tally.report(self.job.output, status, text))
            raise
        return report

    def _recall(self) -> None:
        """Tell the inbox what is done, so that it need not be looked at again.

        Not if files are to be moved: one that a killed run could not move is still there.
        """
        if self.watch.after != "keep":
            return
        for entry in self.ledger.entries():
            poison = entry.error == "PoisonError" and not self.watch.retry_failed
            if entry.size is None or entry.mtime_ns is None:
                continue
            if entry.outcome == "done" or poison:
                self.inbox.remember(entry.id, entry.size, entry.mtime_ns)

    def _guarded_round(self) -> float:
        """Do what there is to do; return how long to wait. What fails now may work later.

        Raises:
            OutputError: The ledger is damaged, or this is a run of few passes.
        """
        try:
            pause_s = self._round()
        except RootGoneError as exc:
            self._unhealthy(exc)
            self.look_at_s = time.monotonic() + self.watch.poll_s
            if self.watch.max_passes is not None:
                raise
            return self.watch.poll_s
        except OutputError as exc:
            with suppress(OutputError):
                self._close()
            if self.watch.max_passes is not None or isinstance(exc, LedgerDamagedError):
                raise
            self.ledger.rollback()
            self._unhealthy(exc)
            pause_s, self.back_off_s = self.back_off_s, min(2 * self.back_off_s, _BACK_OFF_S[1])
            self.look_at_s = time.monotonic() + pause_s
            return pause_s
        self.back_off_s = _BACK_OFF_S[0]
        if not self.unmoved:
            self.reason = ""
            self.tally.status.health(True)
        return pause_s

    def _round(self) -> float:
        now_s = time.monotonic()
        if self.pass_began_s is None:
            self.pass_began_s = self.look_at_s = now_s
        if now_s >= self.look_at_s:
            arrivals = self.inbox.look(deep=self.inbox.deep_is_due())
            self.look_at_s = time.monotonic() + self.inbox.pause_s(self.watch.poll_s)
        else:
            arrivals = self.inbox.settle()
        self.waiting |= {arrival.id: arrival for arrival in arrivals}
        self._do_waiting()
        self._keep_house()
        due_s = self.inbox.due_in_s()
        if due_s is None or now_s - self.pass_began_s > _PATIENCE * self.watch.settle_s:
            self.passes += 1
            self.pass_began_s = None if self.watch.max_passes else now_s
        pause_s = self.look_at_s - time.monotonic()
        return max(0.0, pause_s if due_s is None else min(pause_s, due_s))

    def _do_waiting(self) -> None:
        while self.waiting and not self._is_over():
            self.tally.status.update(state="running", pending=self._n_pending())
            ids = list(self.waiting)[:_AT_ONCE]
            before = len(self.waiting)
            self._process([self.waiting[asset_id] for asset_id in ids])
            if len(self.waiting) >= before:
                return  # told to stop

    def _process(self, arrivals: list[Arrival]) -> None:
        """Take arrivals through the pipeline; those that are committed wait no more."""
        session = self._opened()
        todo = Todo(
            [self._asset(arrival) for arrival in arrivals],
            self.ledger,
            first_place=self.ledger.next_place(),
            keep_places=True,
            poison_again=self.watch.retry_failed,
        )
        settled: list[tuple[str, bool]] = []  # by the thread that decodes

        def wanted() -> Iterator[tuple[Asset, int]]:
            for asset, place, state in todo.states():
                if self.wishes.status is not None:
                    return
                if state in TO_DO:
                    yield asset, place
                else:
                    settled.append((asset.id, state != POISON))

        outcomes = session.process(wanted())
        try:
            for outcome in outcomes:
                self.tally.add(outcome)
                if outcome.error is not None:
                    say(f"error: {outcome.asset.id}: {told(outcome.error)}")
                drained_s = time.monotonic() - self.wishes.stopped_s
                if self._is_over() and (self.wishes.status is None or drained_s > _DRAIN_S):
                    break
        except DecodingStopped:  # a file hung until the time to drain was over
            return
        finally:
            outcomes.close()
        for asset_id, ok in settled:
            self._settle(asset_id, ok)
        self.after.sync()

    def _committed(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._settle(entry.id, entry.outcome == "done")
        self.after.sync()

    def _settle(self, asset_id: str, ok: bool) -> None:
        """Let go of an arrival that is committed, and of its file as the user wishes."""
        arrival = self.waiting.pop(asset_id, None)
        if arrival is not None:
            self._move(arrival, ok)

    def _move(self, arrival: Arrival, ok: bool) -> None:
        try:
            self.after(arrival, ok)
        except OutputError as exc:  # its result is safe; the file stays where it is
            self.unmoved.append((arrival, ok))
            self._unhealthy(exc)

    def _keep_house(self) -> None:
        """Do what is due from time to time."""
        for line in self.inbox.news():
            _log.info("%s", line)
        unmoved, self.unmoved = self.unmoved, []
        for arrival, ok in unmoved:
            self._move(arrival, ok)
        self.after.sync()
        now_s = time.monotonic()
        if self.wishes.anew:
            self.wishes.anew = False
            self.log.begin_anew()
            self._finish()
        elif now_s - self.finished_s >= self.watch.finalise_every_s > 0:
            self._finish()

    def _finish(self) -> None:
        """Bring the aggregates up to date, if something was done since."""
        self._close()
        self.finished_s = time.monotonic()
        if not is_finished(self.job, self.ledger):
            finish(self.job, self.ledger)

    def _opened(self) -> Session:
        if self.session is None:
            session = Session(self.job, self.ledger, self.reader, self._committed)
            self.session = session.__enter__()
        return self.session

    def _close(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.__exit__(None, None, None)

    def _asset(self, arrival: Arrival) -> ImageAsset:
        max_pixels = self.job.config["source"].get("max_pixels", MAX_PIXELS)
        exif = self.job.config["exif"]
        return ImageAsset(arrival.id, arrival.path, exif=exif, max_pixels=max_pixels)

    def _unhealthy(self, exc: Exception) -> None:
        if self.reason != str(exc):
            self.reason = str(exc)
            say(f"error: {exc}")
            _log.error("%s", exc)
        self.tally.status.health(False, str(exc))

    def _n_pending(self) -> int:
        return self.inbox.n_pending + len(self.waiting)

    def _is_over(self) -> bool:
        if self.wishes.status is not None or self._is_over_budget():
            return True
        return self.watch.max_passes is not None and self.passes >= self.watch.max_passes

    def _is_over_budget(self) -> bool:
        counts = self.tally.counts
        total = counts["done"] + counts["failed"]
        limit = budget.allowed(self.watch.max_failures, max(total, _LEAST_SAMPLE))
        return limit is not None and counts["failed"] > limit

    def _report(self) -> Report:
        failed, output = self.tally.counts["failed"], self.job.output
        status, message = self.wishes.status or 0, ""
        if failed:
            message = f"{failed} inputs failed; each is named in {output / 'failures.jsonl'}"
        if status == 130:
            message = "interrupted; what was begun is finished and kept"
        elif self.wishes.status is None and failed:
            status = 3
        if self._is_over_budget():
            status = 4
            message = f"stopped by runner.max_failures={self.watch.max_failures}: {message}"
        return self.tally.report(output, status, message)
