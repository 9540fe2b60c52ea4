"""An output directory that one run holds: its ledger, its sinks, and the order of commits.

An asset's outputs are made durable in every sink, then the ledger says that it is done, and only
then may its source be moved. So a run that dies at any moment has lost nothing that the ledger
names, and what it does not name is done again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.engine import Pipeline
from pipeline.errors import OutputError, PipelineError, printable
from pipeline.job import Job, Outcome
from pipeline.protocols import Asset
from pipeline.redaction import redacted_text
from pipeline.sinks.predictions import Position, PredictionsJsonl
from pipeline.sources.decode.workers import DecodeWorkers
from pipeline.system.descriptors import check_held, open_file, status_of
from pipeline.system.files import sync_folder
from runners.rundir import lists
from runners.rundir import order as results
from runners.rundir.aggregates import are_built, build_aggregates
from runners.rundir.duplicates import record_duplicates
from runners.rundir.in_flight import InFlight
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.rundir.readers import apart
from runners.rundir.translation import translated
from runners.todo import trusted_mtime

Group = list[tuple[Entry, Outcome]]
GROUP = 32  # inputs that are committed together at most
_EVERY_S = 1.0


class Hooks:
    """What a runner may do between an outcome and its commit; here nothing."""

    def accepts(self, outcome: Outcome) -> bool:
        """Say whether an outcome counts; else it is as if the input had not been tried."""
        return True

    def committing(self, group: Group) -> None:
        """Write to the ledger what is to be committed together with a group."""

    def committed(self, group: Group) -> None:
        """Act on a group that is on the disk."""


class Session:
    """The work on an open output directory, from assets to committed outcomes.

    Args:
        job: The job; its runnable is entered where there is something to do.
        ledger: Open.
        reader: What reads and decodes files, if not each asset itself.
        hooks: Asked about each outcome, and told of each group.
    """

    def __init__(
        self,
        job: Job,
        ledger: Ledger,
        reader: Any = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.job, self.ledger, self._hooks = job, ledger, hooks or Hooks()
        self._reader = self._apart = reader  # _apart: of what may have killed a run
        self._predictions: PredictionsJsonl = job.sinks["predictions"]  # type: ignore[assignment]
        self._sinks = ExitStack()
        self._places: dict[str, int] = {}  # of the assets in work
        self._group: Group = []
        self._began_ns = 0
        self._committed_s = time.monotonic()
        self._position = Position()

    def __enter__(self) -> Session:
        """Open the sinks behind what is committed, and begin the lists of inputs and failures.

        Raises:
            OutputError: The output cannot be written.
        """
        output = self.job.output
        with translated(output), ExitStack() as stack:
            self._position = self._predictions.position = self.ledger.position
            self._in_flight = stack.enter_context(InFlight(output))
            lists.write_failures(output, self.ledger)
            self._failures = stack.enter_context(_appending(output / lists.FAILURES))
            self._inputs = stack.enter_context(_appending(output / lists.INPUTS))
            for sink in self.job.sinks.values():
                stack.enter_context(sink)
            if self._in_flight.suspects and not isinstance(self._reader, DecodeWorkers):
                self._apart = stack.enter_context(apart(self.job)) or self._reader
            self._sinks = stack.pop_all()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        """Close the sinks."""
        with translated(self.job.output):
            self._sinks.__exit__(*exc_info)

    def process(self, found: Iterable[tuple[Asset, int]]) -> Generator[Outcome, None, None]:
        """Take assets through the pipeline, and commit them in groups.

        Args:
            found: Assets and their places in input order; ids that the ledger knows are superseded.

        Yields:
            The outcome of each; committed with its group, at the latest when this ends.

        Raises:
            OutputError: The output cannot be written any more; what was committed stays.
        """
        job = self.job
        options = {key: job.config[key] for key in ("batch_size", "decode_threads", "queue_mb")}
        pipeline = Pipeline(job.runnable, job.stages, job.sinks, **options)
        self._began_ns = time.time_ns()
        outcomes = pipeline.run(self._begun(found))
        try:
            for outcome in outcomes:
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
        except GeneratorExit:  # the runner has had enough
            self.commit()
            raise
        except BaseException:
            getattr(self._apart, "close", _nothing)()  # a file may hang there for a minute
            with suppress(OutputError):  # what ended the run is the error to tell
                self.commit()
            raise
        finally:
            outcomes.close()

    def commit(self) -> None:
        """Make the outcomes since the last commit durable: the sinks first, then the ledger.

        Raises:
            OutputError: They cannot be.
        """
        group, self._group = self._group, []
        self._committed_s = time.monotonic()
        if not group:
            return
        with translated(self.job.output):
            for sink in self.job.sinks.values():
                getattr(sink, "sync", _nothing)()
            for entry, _ in group:
                lists.write_line(self._inputs, lists.input_line(entry))
            check_held(self.job.output)  # a sink may have opened its files by name
        self.ledger.put(entry for entry, _ in group)
        self.ledger.state("finished", False)
        self._hooks.committing(group)
        self.ledger.commit(self._position)
        self._in_flight.end(entry.id for entry, _ in group)
        self._hooks.committed(group)

    def _begun(self, found: Iterable[tuple[Asset, int]]) -> Iterator[Asset]:
        for asset, place in found:
            self._places[asset.id] = place
            self._in_flight.begin(asset.id)
            reader = self._apart if asset.id in self._in_flight.suspects else self._reader
            if reader is not None and hasattr(asset, "reader"):
                asset.reader = reader
            yield asset

    def _note(self, outcome: Outcome) -> None:
        entry = self._entry(outcome)
        self._group.append((entry, outcome))
        if outcome.error is not None:
            with translated(self.job.output):
                lists.write_line(self._failures, lists.failure_line(entry))

    def _drop(self, outcome: Outcome) -> None:
        """Forget an input that failed, and so has left nothing in any sink."""
        del self._places[outcome.asset.id]
        self._in_flight.end([outcome.asset.id])

    def _is_due(self) -> bool:
        waited_s = time.monotonic() - self._committed_s
        return len(self._group) >= GROUP or waited_s >= _EVERY_S

    def _entry(self, outcome: Outcome) -> Entry:
        asset, error = outcome.asset, outcome.error
        before, self._position = self._position, self._predictions.position
        entry = Entry(
            asset.id,
            self._places.pop(asset.id),
            "failed" if error else "done",
            image_id=getattr(asset, "image_id", None),
            frames=outcome.n_frames,
            dropped=outcome.n_dropped,
        )
        with suppress(OSError, ValueError, PipelineError):  # the error says why
            size = getattr(asset, "size_bytes", 0)
            entry.size = size or asset.path.stat().st_size
            if size is not None:  # not for what was never read
                entry.sha256 = asset.fingerprint()
        entry.mtime_ns = trusted_mtime(getattr(asset, "mtime_ns", None), self._began_ns)
        if error is None:
            entry.start = before.size
            entry.length = self._position.size - before.size
        else:
            entry.step = getattr(error, "step", "")
            entry.error, entry.message = type(error).__name__, printable(redacted_text(str(error)))
            entry.attempts = getattr(error, "attempts", 1)
        return entry


def finish(job: Job, ledger: Ledger) -> None:
    """Bring the output to its end: predictions in order, the lists, the aggregates.

    Raises:
        OutputError: The output cannot be written.
    """
    with translated(job.output):
        results.put_in_order(job.output, ledger)
        lists.write_lists(job.output, ledger)
        build_aggregates(job, ledger)
        record_duplicates(ledger)
        sync_folder(job.output)  # or old ones may come back
        check_held(job.output)
    ledger.state("finished", True)
    ledger.commit()


def is_finished(job: Job, ledger: Ledger) -> bool:
    """Return whether ``finish`` has nothing to do: nobody has removed what it made, either."""
    names = (lists.INPUTS, lists.FAILURES)
    missing = [name for name in names if status_of(job.output / name) is None]
    return bool(ledger.fact("finished")) and not missing and are_built(job, ledger)


@contextmanager
def _appending(path: Path) -> Iterator[BinaryIO]:
    """Open a list of lines to append to; a last line that is not whole is ended."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    with open(open_file(path, flags), "rb+", buffering=0) as file:  # noqa: PTH123
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        yield file


def _nothing() -> None:
    pass
