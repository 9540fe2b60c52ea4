"""From arrivals to committed results, and what becomes of the files then."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.config import Job
from pipeline.errors import OutputError
from pipeline.protocols import Asset
from pipeline.sources import ImageAsset
from pipeline.sources.decode import MAX_PIXELS
from pipeline.sources.workers import DecodingStopped
from pipeline.types import Outcome
from runners import budget
from runners.console import say, told
from runners.ledger import Entry, Ledger
from runners.session import Session, finish, is_finished
from runners.tally import Tally
from runners.todo import POISON, TO_DO, Todo
from runners.watch.after import After
from runners.watch.inbox import Inbox
from runners.watch.signals import Wishes
from runners.watch.troubles import Troubles
from runners.watch.versions import Arrival

DRAIN_S = 8.0
_AT_ONCE = 256  # arrivals between two looks at the folder
_LEAST_SAMPLE = 20  # inputs before a share of failures means anything
_BYTES_PER_S = 8e6  # of predictions.jsonl, when all is brought into order and aggregated
_log = logging.getLogger("d2run")


@dataclass
class Work:
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
        waiting: Arrivals to be done and committed, by id.
        worked_s: Seconds at work.
        failing: Ids of those that failed and were not done since.
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
        self.failing: set[str] = set()
        self._uncounted: dict[str, Outcome] = {}  # not committed yet
        self._committed_ids: set[str] = set()  # not seen as outcomes yet
        self._unmoved: dict[str, tuple[Arrival, bool]] = {}
        self._session: Session | None = None
        self._finish_took_s: float | None = None

    def open(self) -> Session:
        """Open the output, if it is not open.

        Raises:
            OutputError: It cannot be written.
        """
        if self._session is None:
            session = Session(self.job, self.ledger, self.reader, self._committed)
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
            self._uncounted.clear()  # what could not be committed comes again
            self._committed_ids.clear()

    def move_late(self) -> None:
        """Move those that could not be moved before, until one still cannot.

        Raises:
            OutputError: What was moved cannot be made durable.
        """
        while self._unmoved:
            if not self._move(*self._unmoved.pop(next(iter(self._unmoved)))):
                break  # it is the last in line now, and the others have their turn
        self.after.sync()
        if not self._unmoved:
            self.troubles.end("move")

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
        counts = self.tally.counts
        total = counts["done"] + counts["failed"] + len(self._uncounted)
        limit = budget.allowed(self.max_failures, max(total, _LEAST_SAMPLE))
        if limit is None:
            return False
        uncounted = sum(outcome.error is not None for outcome in self._uncounted.values())
        return counts["failed"] + uncounted > limit

    def _process(self, arrivals: Mapping[str, Arrival]) -> None:
        """Take arrivals through the pipeline; those that are committed wait no more."""
        session = self.open()
        todo = Todo(
            [self._asset(arrival) for arrival in arrivals.values()],
            self.ledger,
            first_place=self.ledger.next_place(),
            keep_places=True,
            poison_again=self.poison_again,
        )
        settled: list[tuple[str, bool]] = []  # by the thread that decodes

        def wanted() -> Iterator[tuple[Asset, int]]:
            for asset, place, state in todo.states():
                if self.wishes.status is not None or self.wishes.anew:
                    return
                if state in TO_DO:
                    yield asset, place
                else:
                    settled.append((asset.id, state != POISON))

        outcomes = session.process(wanted())
        try:
            for outcome in outcomes:
                self._note(outcome, arrivals[outcome.asset.id])
                if self.is_over_budget() or self._drained_s() > DRAIN_S:
                    break
        except DecodingStopped:  # a file hung until the time to drain was over
            return
        finally:
            outcomes.close()
        for asset_id, ok in settled:
            self._settle(asset_id, ok)
        self.after.sync()

    def _asset(self, arrival: Arrival) -> ImageAsset:
        max_pixels = self.job.config["source"].get("max_pixels", MAX_PIXELS)
        exif = self.job.config["exif"]
        return ImageAsset(arrival.id, arrival.path, exif=exif, max_pixels=max_pixels)

    def _note(self, outcome: Outcome, arrival: Arrival) -> None:
        """Count an outcome, once it is committed."""
        if outcome.error is not None and not arrival.is_there():
            # what comes of its next version counts
            _log.info("%s: waited for again: %s", arrival.id, outcome.error)
            self.inbox.forget(arrival.id)
        elif arrival.id in self._committed_ids:
            self._count(outcome)
        else:
            self._uncounted[arrival.id] = outcome

    def _count(self, outcome: Outcome) -> None:
        self.tally.add(outcome)
        if outcome.error is None:
            self.failing.discard(outcome.asset.id)
        else:
            self.failing.add(outcome.asset.id)
            say(f"error: {outcome.asset.id}: {told(outcome.error)}")

    def _drained_s(self) -> float:
        """Return how long it has been draining."""
        return 0.0 if self.wishes.status is None else time.monotonic() - self.wishes.stopped_s

    def _committed(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._committed_ids.add(entry.id)
            if entry.id in self._uncounted:
                self._count(self._uncounted.pop(entry.id))
            self._settle(entry.id, entry.outcome == "done")
        self.after.sync()

    def _settle(self, asset_id: str, ok: bool) -> None:
        """Let go of an arrival that is committed, and of its file as the user wishes."""
        arrival = self.waiting.pop(asset_id, None)
        if arrival is not None:
            self._move(arrival, ok)

    def _move(self, arrival: Arrival, ok: bool) -> bool:
        """Return whether that is done; else its result is safe, and the file stays for now."""
        try:
            self.after(arrival, ok)
        except OutputError as exc:
            self._unmoved[arrival.id] = arrival, ok
            if "move" not in self.troubles:  # the next files will say the same
                self.troubles.begin("move", exc)
            return False
        if not os.path.lexists(arrival.path):
            self.inbox.forget(arrival.id)  # should it come again, the ledger knows
        return True
