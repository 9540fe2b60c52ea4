"""From arrivals to committed results, and what becomes of the files then."""

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
from pipeline.job import Job, Outcome
from pipeline.protocols import Asset
from pipeline.sources import ImageAsset
from pipeline.sources.decode.image import MAX_PIXELS
from pipeline.sources.decode.workers import DecodingStopped
from pipeline.system.terminal import say
from runners import budget
from runners.reporting.console import describe_error
from runners.reporting.tally import Tally
from runners.rundir.commit import Group, Hooks, Session, finish, is_finished
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.ledger.source_files import SourceFile, SourceFiles
from runners.todo import POISON, TO_DO, Todo
from runners.watch.account import Account
from runners.watch.files.after import After
from runners.watch.files.claims import Processed
from runners.watch.files.moving import Moving
from runners.watch.files.names import Names
from runners.watch.inbox.inbox import Inbox
from runners.watch.inbox.versions import Arrival
from runners.watch.inbox.writers import Writers
from runners.watch.signals import Wishes
from runners.watch.troubles import Troubles

DRAIN_S = 8.0
_AT_ONCE = 256  # arrivals between two looks at the folder
_LEAST_SAMPLE = 20  # inputs before a share of failures means anything
_BYTES_PER_S = 8e6  # of predictions.jsonl, when all is brought into order and aggregated
_log = logging.getLogger("d2run")


@dataclass
class Work(Hooks):
    """Does what has arrived, and then moves it.

    Attributes:
        job: The job.
        ledger: Open.
        tally: Counts.
        inbox: Forgets what is not there any more.
        after: Moves or deletes.
        reader: Decodes; ``None`` for in this process.
        troubles: Learns what cannot be moved.
        poison_again: Whether to do what killed its worker again.
        max_failures: As of the runner.
        wishes: What ends a round of work early.
        waiting: Arrivals to be done and committed, by the name of their file.
        worked_s: Seconds at work.
        files: Which file each input was.
        names: Which input a file is.
        account: What is to be reported at the end.
        moving: Moves and deletes files.
    """

    job: Job
    ledger: Ledger
    tally: Tally
    inbox: Inbox
    after: After
    reader: Any
    troubles: Troubles
    poison_again: bool
    max_failures: int | float | str | None

    def __post_init__(self) -> None:
        self.wishes = Wishes()
        self.waiting: dict[str, Arrival] = {}
        self.worked_s = 0.0
        self.files = SourceFiles(self.ledger)
        self.account = Account(self.ledger, self.files)
        self.tally.status.counts.update(self.account.counts)
        self.names = Names(self.ledger, self.files, self.after)
        self.moving = Moving(
            self.after,
            self.ledger,
            self.files,
            self.names,
            self.account,
            self.inbox,
            self.troubles,
        )
        self._arrivals: dict[str, Arrival] = {}  # in work, by the id of the input
        self._uncommitted: Counter[bool] = Counter()  # outcomes, by whether they failed
        self._fresh: Group = []
        self._session: Session | None = None
        self._finish_took_s: float | None = None

    def open(self) -> Session:
        """Open the output, if it is not open.

        Raises:
            OutputError: It cannot be written.
        """
        if self._session is None:
            session = Session(self.job, self.ledger, self.reader, self)
            self._session = session.__enter__()
        return self._session

    def close(self) -> None:
        """Close it; what is not committed is done again.

        Raises:
            OutputError: It cannot be written.
        """
        session, self._session = self._session, None
        if session is not None:
            session.__exit__(None, None, None)

    def give_up(self) -> None:
        """Close an output that cannot be written now; what is not committed waits."""
        with suppress(OutputError):
            self.close()
        self.ledger.rollback()

    def do_some(self) -> None:
        """Do the first of those that wait, as far as the time between two looks allows.

        Raises:
            OutputError: The output cannot be written; what was not committed still waits.
        """
        arrivals = dict(islice(self.waiting.items(), _AT_ONCE))
        if not arrivals:
            return
        began_s = time.monotonic()
        try:
            self._process(arrivals)
        finally:
            self.worked_s += time.monotonic() - began_s
            self._uncommitted.clear()  # what could not be committed comes again
            self._arrivals.clear()

    def finish(self) -> None:
        """Bring lists and aggregates up to date, if something was done since.

        Raises:
            OutputError: The output cannot be written.
        """
        self.close()
        if not is_finished(self.job, self.ledger):
            began_s = time.monotonic()
            finish(self.job, self.ledger)
            self._finish_took_s = time.monotonic() - began_s

    def finish_s(self) -> float:
        """Return about how long that takes, in seconds."""
        if self._finish_took_s is None:
            return self.ledger.position.size / _BYTES_PER_S
        return self._finish_took_s

    def is_over_budget(self) -> bool:
        """Say whether more has failed than may."""
        total = self.account.counts.total() + self._uncommitted.total()
        limit = budget.allowed(self.max_failures, max(total, _LEAST_SAMPLE))
        if limit is None:
            return False
        return self.account.counts["failed"] + self._uncommitted[True] > limit

    def accepts(self, outcome: Outcome) -> bool:
        """Say whether an outcome counts: not the failure of a file that may still be written."""
        arrival = self._arrivals[outcome.asset.id]
        if outcome.error is not None and self._may_be_a_part(arrival, outcome.error):
            _log.info("%s: looked at again: %s", arrival.id, outcome.error)
            self.waiting.pop(arrival.id, None)
            return False
        self._uncommitted[outcome.error is not None] += 1
        return True

    def committing(self, group: Group) -> None:
        """Remember which file each input was, and what is counted with this commit."""
        self._fresh = self.account.fresh(group)
        self.account.write(self._fresh)
        for entry, _ in group:
            failed, name = entry.outcome == "failed", self._arrivals[entry.id].id
            plain = name == entry.id and not failed and entry.id not in self.account.failing
            if not plain or self.after.action != "keep":
                self.files.put([SourceFile(entry.id, name, unreported=failed)])

    def committed(self, group: Group) -> None:
        """Count what is committed, and let go of the files."""
        self._uncommitted.clear()
        self.account.add(self._fresh)
        for entry, outcome in self._fresh:
            self.tally.add(outcome)
            if outcome.error is not None:
                say(f"error: {entry.id}: {describe_error(outcome.error)}")
        self._settle([(entry.id, entry.outcome == "done", entry.sha256) for entry, _ in group])

    def _process(self, arrivals: Mapping[str, Arrival]) -> None:
        """Take arrivals through the pipeline; those that are committed wait no more."""
        session = self.open()
        todo = Todo(
            (self._asset(arrival) for arrival in arrivals.values()),
            self.ledger,
            first_place=self.ledger.next_place(),
            keep_places=True,
            by_content=self.after.action != "keep",
            poison_again=self.poison_again,
        )
        settled: list[tuple[str, bool, str | None]] = []  # by the thread that decodes

        def wanted() -> Iterator[tuple[Asset, int]]:
            for asset, place, state in todo.states():
                if self.wishes.status is not None or self.wishes.anew:
                    return
                if state in TO_DO:
                    yield asset, place
                else:
                    settled.append((asset.id, state != POISON, self._known_digest(asset)))

        outcomes = session.process(wanted())
        try:
            for _ in outcomes:
                if self.is_over_budget() or self._drained_s() > DRAIN_S:
                    break
        except DecodingStopped:  # a file hung until the time to drain was over
            return
        finally:
            outcomes.close()
        self._settle(settled)

    def _asset(self, arrival: Arrival) -> ImageAsset:
        max_pixels = self.job.config["source"].get("max_pixels", MAX_PIXELS)
        exif = self.job.config["exif"]
        asset = ImageAsset(arrival.id, arrival.path, exif=exif, max_pixels=max_pixels)
        asset.id = self.names.id_of(arrival, partial(_fingerprint, asset), self._arrivals)
        self._arrivals[asset.id] = arrival
        return asset

    def _known_digest(self, asset: Asset) -> str | None:
        return None if self.after.action == "keep" else _fingerprint(asset)

    def _may_be_a_part(self, arrival: Arrival, error: PipelineError) -> bool:
        """Say whether a file failed only because it is not complete; then look at it again."""
        if not arrival.is_there() or Writers().write(arrival.path):
            self.inbox.again(arrival)
            return True
        if isinstance(error, DecodeError) and not isinstance(error, PoisonError):
            return self.inbox.doubt(arrival)
        return False

    def _drained_s(self) -> float:
        """Return how long it has been draining."""
        return 0.0 if self.wishes.status is None else time.monotonic() - self.wishes.stopped_s

    def _settle(self, outcomes: Iterable[tuple[str, bool, str | None]]) -> None:
        """Let go of inputs by id, with whether they are done and the SHA-256 of their content."""
        files = []
        for asset_id, ok, sha256 in outcomes:
            arrival = self._arrivals[asset_id]
            if self.waiting.pop(arrival.id, None) is not None:
                files.append(Processed(asset_id, arrival, ok, sha256))
        self.moving.settle(files)


def _fingerprint(asset: Asset) -> str | None:
    try:
        return asset.fingerprint()
    except DecodeError:  # whoever decodes it will say why
        return None
