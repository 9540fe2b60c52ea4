"""An open run directory, and the only place that commits: the order of commits is here.

1. The outputs of an asset are durable in every sink, and in the object store if there is one.
2. Its lines are durable in the journal, ``predictions.jsonl``.
3. The ledger says that it is done.
4. Its source file may be moved or deleted.

A run that dies at any moment has lost nothing that the ledger names, and the next run repeats
what it does not name.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

from pipeline.encoding import columns_digest
from pipeline.engine.local import LocalExecutor
from pipeline.errors import AssetError, OutputError, PipelineError, printable
from pipeline.job import Executor, Job, Outcome
from pipeline.protocols import (
    AnnotatedAsset,
    Asset,
    Closable,
    Durable,
    NumberedAsset,
    ReadableAsset,
    VersionedAsset,
    supports,
)
from pipeline.redaction import redacted_text
from pipeline.sources.decode.workers import DecodeWorkers
from pipeline.system.descriptors import check_held, status_of
from pipeline.system.files import sync_folder
from runners.rundir import input_order, lists
from runners.rundir.in_flight import InFlight
from runners.rundir.journal import Journal, Position
from runners.rundir.ledger.duplicates import record_duplicates
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.rundir.owned.aggregates import are_built, build_aggregates
from runners.rundir.owned.pruning import finish_pruning
from runners.rundir.readers import isolated_reader
from runners.rundir.remote.current import mirror_of
from runners.rundir.translation import output_errors
from runners.todo import asset_status, trusted_mtime

Group = list[tuple[Entry, Outcome]]
GROUP = 32  # the largest number of inputs that are committed together
_EVERY_S = 1.0


class Hooks:
    """Lets a runner add to the commit of an outcome; by default nothing is added."""

    def accepts(self, outcome: Outcome) -> bool:
        """Return whether to commit an outcome; otherwise the input counts as not processed."""
        return True

    def committing(self, group: Group) -> None:
        """Change the ledger in the same transaction as a group."""

    def committed(self, group: Group) -> None:
        """Act on a group that is durable."""


class Session:
    """The work on an open run directory, from assets to committed outcomes.

    Args:
        job: The job; its runnable is entered if there is something to do.
        ledger: Open.
        reader: Reads and decodes the files of readable assets; by default they do so themselves.
        hooks: Called with each outcome and each group.
        executor: Turns assets into outcomes; by default on threads, which a suspect can kill.
    """

    def __init__(
        self,
        job: Job,
        ledger: Ledger,
        reader: Any = None,
        hooks: Hooks | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.job, self.ledger, self._hooks = job, ledger, hooks or Hooks()
        self._executor = executor or LocalExecutor(job)
        is_local = isinstance(self._executor, LocalExecutor)
        self._is_exposed = is_local and not isinstance(reader, DecodeWorkers)
        self._reader = self._isolated = reader  # _isolated: for suspects
        self._mirror = mirror_of(job.output)
        self._open = ExitStack()
        self._places: dict[str, int] = {}  # of the in-flight assets
        self._group: Group = []
        self._started_ns = 0
        self._committed_s = time.monotonic()
        self._position = Position()  # includes the group

    def __enter__(self) -> Session:
        """Open the journal after what is committed, the sinks, and the lists.

        Raises:
            OutputError: The output cannot be written.
        """
        output = self.job.output
        with output_errors(output), ExitStack() as stack:
            self._position = self.ledger.position
            self._in_flight = stack.enter_context(InFlight(output))
            lists.write_failures(output, self.ledger)
            self._failures = stack.enter_context(lists.appending(output / lists.FAILURES))
            self._inputs = stack.enter_context(lists.appending(output / lists.INPUTS))
            self._journal = stack.enter_context(Journal(output, self._position))
            if self._mirror is not None:
                self._mirror.open(self.ledger)
            for sink in self.job.sinks.values():
                stack.enter_context(sink)
            finish_pruning(self.job, self.ledger, self._in_flight.suspects)
            if self._in_flight.suspects and self._is_exposed:
                self._isolated = stack.enter_context(isolated_reader(self.job)) or self._reader
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        """Close them."""
        with output_errors(self.job.output):
            self._open.__exit__(*exc_info)

    def process(self, found: Iterable[tuple[Asset, int]]) -> Generator[Outcome, None, None]:
        """Run assets through the executor and commit them in groups.

        The executor may return outcomes in any order, and repeatedly: the first one of an asset
        counts, and ``input_order.py`` restores the input order when the run ends.

        Args:
            found: Assets and their places in input order. Earlier results of the same ids are
                superseded.

        Yields:
            The outcome of each asset. Outcomes are committed in groups, the last one at the end.

        Raises:
            OutputError: The output can no longer be written; what was committed is kept.
        """
        self._started_ns = time.time_ns()
        outcomes = self._executor.run(self._opened(found))
        outcome: Outcome | None = None
        try:
            for outcome in outcomes:
                if outcome.asset.id not in self._places:
                    outcome.records.close()  # a duplicate
                    continue
                if not self._hooks.accepts(outcome):
                    self._drop(outcome)
                    continue
                self._note(outcome)
                if self._is_due():
                    self.commit()
                yield outcome
            self.commit()
        except OutputError:
            raise  # what could not be made durable is not done
        except GeneratorExit:  # the runner stops
            self.commit()
            raise
        except BaseException:
            if isinstance(self._isolated, Closable):
                self._isolated.close()  # a file may block a worker for a minute
            with suppress(OutputError):  # the error that ended the run says more
                self.commit()
            raise
        finally:
            if outcome is not None and outcome.asset.id in self._places:
                self._discard(outcome.asset)  # its lines are not in the journal
            if isinstance(outcomes, Closable):
                outcomes.close()

    def commit(self) -> None:
        """Make the outcomes since the last commit durable, in the order of this module.

        Raises:
            OutputError: The output cannot be written.
        """
        group, self._group = self._group, []
        self._committed_s = time.monotonic()
        if not group:
            return
        with output_errors(self.job.output):
            for sink in self.job.sinks.values():
                if isinstance(sink, Durable):
                    sink.sync()
            self._journal.sync()
            for entry, _ in group:
                lists.write_line(self._inputs, lists.input_line(entry))
            check_held(self.job.output)  # a sink may have opened its files by name
            if self._mirror is not None:
                self._mirror.flush()
        self.ledger.put(entry for entry, _ in group)
        self.ledger.set_fact("finished", False)
        self._hooks.committing(group)
        self.ledger.commit(self._position)
        self._in_flight.discard(entry.id for entry, _ in group)
        if self._mirror is not None:
            self._mirror.committed(self.ledger)
        self._hooks.committed(group)

    def _opened(self, found: Iterable[tuple[Asset, int]]) -> Iterator[Asset]:
        for asset, place in found:
            self._places[asset.id] = place
            self._in_flight.add(asset.id)
            reader = self._isolated if asset.id in self._in_flight.suspects else self._reader
            if reader is not None and supports(asset, ReadableAsset):
                asset.reader = reader
            yield asset

    def _note(self, outcome: Outcome) -> None:
        """Append an outcome to the journal, or to the failures, and to the group."""
        entry = self._entry(outcome)
        with output_errors(self.job.output):
            if outcome.error is None:
                self._journal.append(outcome.records, entry.image_id)
                entry.start = self._position.size
                entry.length = self._journal.position.size - entry.start
                self._position = self._journal.position
            if entry.error is not None:
                lists.write_line(self._failures, lists.failure_line(entry))
        self._group.append((entry, outcome))
        del self._places[entry.id]
        outcome.records.close()

    def _discard(self, asset: Asset) -> None:
        """Remove what the sinks wrote for an asset that was interrupted before its commit."""
        for sink in self.job.sinks.values():
            with suppress(Exception):
                sink.discard(asset)

    def _drop(self, outcome: Outcome) -> None:
        """Forget an input; one that failed has left nothing in any sink."""
        outcome.records.close()
        if outcome.error is None:
            self._discard(outcome.asset)
        del self._places[outcome.asset.id]
        self._in_flight.discard([outcome.asset.id])

    def _is_due(self) -> bool:
        waited_s = time.monotonic() - self._committed_s
        return len(self._group) >= GROUP or waited_s >= _EVERY_S

    def _entry(self, outcome: Outcome) -> Entry:
        asset, error = outcome.asset, outcome.error or outcome.partial
        entry = Entry(
            asset.id,
            self._places[asset.id],
            "failed" if outcome.error else "done",
            image_id=asset.image_id if supports(asset, NumberedAsset) else None,
            frames=outcome.n_frames,
            dropped=outcome.n_dropped,
            columns=columns_digest(asset.columns) if supports(asset, AnnotatedAsset) else None,
        )
        with suppress(OSError, ValueError, PipelineError):  # the error says why
            size = asset.size_bytes if supports(asset, VersionedAsset) else 0
            entry.size = size or asset_status(asset)[0]
            if size is not None:  # not for files that were never read
                entry.sha256 = asset.fingerprint()
        mtime_ns = asset.mtime_ns if supports(asset, VersionedAsset) else None
        entry.mtime_ns = trusted_mtime(mtime_ns, self._started_ns)
        if error is not None:
            entry.step = error.step if isinstance(error, AssetError) else ""
            entry.error, entry.message = type(error).__name__, printable(redacted_text(str(error)))
            entry.attempts = error.attempts if isinstance(error, AssetError) else 1
        return entry


def finish(job: Job, ledger: Ledger) -> None:
    """Complete the output: predictions in input order, the lists, the aggregates.

    Raises:
        OutputError: The output cannot be written.
    """
    with output_errors(job.output):
        input_order.put_in_order(job.output, ledger)
        lists.write_lists(job.output, ledger)
        build_aggregates(job, ledger)
        record_duplicates(ledger)
        sync_folder(job.output)  # or old ones may come back
        check_held(job.output)
    ledger.set_fact("finished", True)
    ledger.commit()


def is_finished(job: Job, ledger: Ledger) -> bool:
    """Return whether ``finish`` has nothing to do, because all its outputs exist."""
    names = (lists.INPUTS, lists.FAILURES)
    missing = [name for name in names if status_of(job.output / name) is None]
    return bool(ledger.fact("finished")) and not missing and are_built(job, ledger)
