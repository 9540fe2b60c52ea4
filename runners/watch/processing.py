"""Processes arrived files and commits their results."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from pipeline.errors import DecodeError, OutputError, PipelineError, PoisonError
from pipeline.job import Executor, Job, Outcome
from pipeline.protocols import Asset
from pipeline.sources.decode.workers import DecodingStopped
from runners import budget
from runners.reporting.tally import Tally
from runners.rundir.commit import Group, Hooks, Session, finish, is_finished
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.ledger.source_files import SourceFile, SourceFiles
from runners.rundir.owned.aggregates import build_reports
from runners.todo import POISON, TO_DO, Todo
from runners.watch.counts import UnreportedCounts
from runners.watch.files.claims import ProcessedFile
from runners.watch.files.input_ids import InputIds
from runners.watch.files.moving import FileMover
from runners.watch.files.postprocessing import PostProcessing
from runners.watch.folders import kinds_of
from runners.watch.health import HealthIssues
from runners.watch.inbox.inbox import Inbox
from runners.watch.inbox.versions import Arrival
from runners.watch.inbox.writers import WriterCheck
from runners.watch.messages import Messages
from runners.watch.options import WatchOptions
from runners.watch.schedule import Schedule
from runners.watch.signals import StopRequests

_CHUNK = 256  # arrivals per worker that are processed between two scans
_MIN_SAMPLE = 20  # inputs before max_failures as a share means anything
_log = logging.getLogger("d2run")


@dataclass
class Processing(Hooks):
    """Processes arrivals in chunks, commits their results and then post-processes their files.

    Attributes:
        job: The job.
        options: The runner's options.
        schedule: Limits the time to drain; records how long finalizing takes.
        ledger: Open.
        tally: Counts outcomes.
        inbox: Returns a file again that changed or could not be decoded.
        post_processing: Moves or deletes files.
        reader: Decodes files; ``None`` to decode in this process.
        health: Shows that files cannot be moved.
        messages: Prints each file.
        requests: End a chunk early.
        executor: Processes files elsewhere; by default threads of this process do.
        n_workers: Number of workers of the executor.
        waiting: Arrivals whose result is not committed yet, by file name.
        busy_s: Seconds spent processing.
        files: The source file of each input.
        input_ids: The input of each file.
        unreported: Counts of the inputs that no run has reported yet.
        mover: Moves and deletes files in step with the ledger.
    """

    job: Job
    options: WatchOptions
    schedule: Schedule
    ledger: Ledger
    tally: Tally
    inbox: Inbox
    post_processing: PostProcessing
    reader: Any
    health: HealthIssues
    messages: Messages
    requests: StopRequests
    executor: Executor | None = None
    n_workers: int = 1

    def __post_init__(self) -> None:
        self.waiting: dict[str, Arrival] = {}
        self.busy_s = 0.0
        self.files = SourceFiles(self.ledger)
        self.unreported = UnreportedCounts(self.ledger, self.files)
        self.tally.status.counts.update(self.unreported.counts)
        self.input_ids = InputIds(self.ledger, self.files, self.post_processing)
        self.mover = FileMover(
            self.post_processing,
            self.ledger,
            self.files,
            self.input_ids,
            self.unreported,
            self.inbox,
            self.health,
        )
        self._arrivals: dict[str, Arrival] = {}  # of the current chunk, by the id of the input
        self._uncommitted: Counter[bool] = Counter()  # outcomes, by whether they failed
        self._uncounted: Group = []
        self._session: Session | None = None

    def open(self) -> Session:
        """Open the output, if it is not open.

        Raises:
            OutputError: It cannot be written.
        """
        if self._session is None:
            session = Session(self.job, self.ledger, self.reader, self, self.executor)
            self._session = session.__enter__()
        return self._session

    def close(self) -> None:
        """Close the output; uncommitted inputs are processed again later.

        Raises:
            OutputError: It cannot be written.
        """
        session, self._session = self._session, None
        if session is not None:
            session.__exit__(None, None, None)

    def abort(self) -> None:
        """Close an output that cannot be written at present; uncommitted arrivals stay waiting."""
        with suppress(OutputError):
            self.close()
        self.ledger.rollback()

    def process_chunk(self) -> None:
        """Process the first of the waiting arrivals, as many as fit between two scans.

        Raises:
            OutputError: The output cannot be written; uncommitted arrivals stay waiting.
        """
        arrivals = dict(islice(self.waiting.items(), _CHUNK * self.n_workers))
        if not arrivals:
            return
        started_s = time.monotonic()
        try:
            self._process(arrivals)
        finally:
            self.busy_s += time.monotonic() - started_s
            self._uncommitted.clear()  # these inputs are processed again
            self._arrivals.clear()

    def finalize(self) -> None:
        """Bring lists and aggregates up to date, if there are new results.

        Raises:
            OutputError: The output cannot be written.
        """
        self.close()
        took_s = None
        if not is_finished(self.job, self.ledger):
            started_s = time.monotonic()
            finish(self.job, self.ledger)
            build_reports(self.job, self.ledger)
            took_s = time.monotonic() - started_s
        self.schedule.record_finalize(took_s)

    def is_over_budget(self) -> bool:
        """Return whether more inputs have failed than ``max_failures``."""
        counts = self.unreported.counts
        total = counts.total() + self._uncommitted.total()
        limit = budget.allowed(self.options.max_failures, max(total, _MIN_SAMPLE))
        return limit is not None and counts["failed"] + self._uncommitted[True] > limit

    def accepts(self, outcome: Outcome) -> bool:
        """Return whether to commit an outcome: not that of an incomplete file."""
        arrival = self._arrivals[outcome.asset.id]
        error = outcome.error or outcome.partial
        if error is not None and self._may_be_incomplete(arrival, error):
            _log.info("%s: will be checked again: %s", arrival.id, error)
            self.waiting.pop(arrival.id, None)
            return False
        self._uncommitted[outcome.error is not None] += 1
        return True

    def committing(self, group: Group) -> None:
        """Write the source file of each input, and the counts, as part of the commit."""
        self._uncounted = self.unreported.uncounted(group)
        self.unreported.write(self._uncounted)
        for entry, _ in group:
            failed, name = entry.outcome == "failed", self._arrivals[entry.id].id
            was_failing = entry.id in self.unreported.failing
            is_default = name == entry.id and not failed and not was_failing
            if not is_default or self.options.after != "keep":
                self.files.put([SourceFile(entry.id, name, unreported=failed)])

    def committed(self, group: Group) -> None:
        """Count and report what is committed, and post-process the files."""
        self._uncommitted.clear()
        self.unreported.add(self._uncounted)
        for entry, outcome in self._uncounted:
            self.tally.add(outcome)
            if error := outcome.error or outcome.partial:
                self.messages.file_failed(entry.id, error)
            else:
                self.messages.file_done(entry.id, outcome.detections)
        self._remove_waiting(
            (entry.id, entry.outcome == "done", entry.sha256) for entry, _ in group
        )

    def _process(self, arrivals: Mapping[str, Arrival]) -> None:
        """Run arrivals through the pipeline; committed arrivals no longer wait."""
        session = self.open()
        todo = Todo(
            (self._asset(arrival) for arrival in arrivals.values()),
            self.ledger,
            first_place=self.ledger.next_place(),
            keep_places=True,
            by_content=self.options.after != "keep",
            poison_again=self.options.retry_failed,
        )
        known: list[tuple[str, bool, str | None]] = []  # appended to by the decoding thread

        def assets() -> Iterator[tuple[Asset, int]]:
            for asset, place, state in todo.states():
                if self.requests.stop or self.requests.refresh:
                    return
                if state in TO_DO:
                    yield asset, place
                else:
                    known.append((asset.id, state != POISON, self._known_digest(asset)))

        outcomes = session.process(assets())
        try:
            for _ in outcomes:
                has_time = self.schedule.drain_left_s(self.requests.requested_s) >= 0
                if self.is_over_budget() or not has_time:
                    break
        except DecodingStopped:  # a decoder hung until the time to drain was over
            return
        finally:
            outcomes.close()
        self._remove_waiting(known)

    def _asset(self, arrival: Arrival) -> Asset:
        asset = kinds_of(self.job).asset(arrival.id, arrival.path)
        asset.id = self.input_ids.id_of(arrival, partial(_fingerprint, asset), self._arrivals)
        self._arrivals[asset.id] = arrival
        return asset

    def _known_digest(self, asset: Asset) -> str | None:
        return None if self.options.after == "keep" else _fingerprint(asset)

    def _may_be_incomplete(self, arrival: Arrival, error: PipelineError) -> bool:
        """Return whether a file may have failed because it is incomplete; it is then retried."""
        if not arrival.is_current() or WriterCheck().is_open_for_writing(arrival.path):
            self.inbox.recheck(arrival)
            return True
        if isinstance(error, DecodeError) and not isinstance(error, PoisonError):
            return self.inbox.retry(arrival)
        return False

    def _remove_waiting(self, outcomes: Iterable[tuple[str, bool, str | None]]) -> None:
        """Remove committed inputs from the waiting arrivals, and post-process their files.

        Args:
            outcomes: Input id, whether it is done, and the SHA-256 of its content.
        """
        files = []
        for asset_id, is_done, sha256 in outcomes:
            arrival = self._arrivals[asset_id]
            if self.waiting.pop(arrival.id, None) is not None:
                files.append(ProcessedFile(asset_id, arrival, is_done, sha256))
        self.mover.process(files)


def _fingerprint(asset: Asset) -> str | None:
    try:
        return asset.fingerprint()
    except DecodeError:  # decoding the file will report why
        return None
