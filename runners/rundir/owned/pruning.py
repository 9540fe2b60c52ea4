"""Removes the results of inputs that no longer exist, so that a kill at any moment is safe.

1. The ledger forgets a group of inputs, and records that their outputs are to be removed.
2. The sinks remove the outputs.
3. The ledger records that they are removed.

A run that dies in between leaves outputs that no input has; the next run removes them first. The
lines of ``predictions.jsonl``, the lists and the aggregates follow when the run ends, as for
results that were superseded.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.protocols import Durable, LiveSource, Source
from pipeline.records import Frame
from pipeline.sources import Several
from pipeline.system.descriptors import open_to_read
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.rundir.remote.current import mirror_of
from runners.rundir.translation import output_errors

_FACT = "pruning"
_AT_ONCE = 500


@dataclass
class _Gone:
    """An input that no longer exists, as sinks see it."""

    id: str
    is_still: bool

    @property
    def path(self) -> Path:
        return Path(self.id)

    def fingerprint(self) -> str:
        return ""

    def frames(self) -> Iterator[Frame]:
        return iter(())


def check_inputs(source: Source) -> None:
    """Check that no input has become empty: what is not mounted looks like an empty directory.

    Args:
        source: Listed.

    Raises:
        ConfigError: An input lists nothing.
    """
    parts = source.sources if isinstance(source, Several) else [source]
    for part in parts:
        if isinstance(part, Sized) and not len(part):
            name = getattr(part, "input", type(part).__name__)
            raise ConfigError(
                f"prune: there is no image in {name}, so all of its results would be removed; "
                "check that it is there, for example that its disk is mounted, or set "
                "runner.prune=all to remove them"
            )


def unlisted_results(
    ledger: Ledger, places: range, listed: Container[str], lost: Iterable[str]
) -> Iterator[Entry]:
    """Yield the results of inputs that are no longer listed.

    Args:
        ledger: Open; may be changed meanwhile.
        places: The places of the run's input; results of other inputs are not considered.
        listed: The ids of all inputs.
        lost: Directories that could not be listed: what they contain may still exist.
    """
    hidden = tuple(f"{path}/" for path in lost)
    for entry in ledger.entries():
        if (
            entry.outcome == "done"
            and entry.place in places
            and entry.id not in listed
            and not entry.id.startswith(hidden)
        ):
            yield entry


def prune(job: Job, ledger: Ledger, gone: Iterable[Entry]) -> int:
    """Remove the results of inputs; return how many there were.

    Args:
        job: The job, its sinks entered; only these remove their outputs.
        ledger: Open.
        gone: Entries of the ledger.

    Raises:
        OutputError: The output cannot be changed.
    """
    entries, count = iter(gone), 0
    while chunk := list(islice(entries, _AT_ONCE)):
        with output_errors(job.output):
            ledger.set_fact(_FACT, [[entry.id, _is_still(job.output, entry)] for entry in chunk])
        ledger.remove(entry.id for entry in chunk)
        ledger.set_fact("finished", False)
        ledger.commit()
        if (mirror := mirror_of(job.output)) is not None:
            mirror.checkpoint(ledger)  # or another machine would believe that the outputs exist
        finish_pruning(job, ledger)
        count += len(chunk)
    return count


def finish_pruning(job: Job, ledger: Ledger, in_flight: Iterable[str] = ()) -> None:
    """Remove the outputs of inputs that the ledger has forgotten; the job's sinks are entered.

    Args:
        job: The job.
        ledger: Open.
        in_flight: Ids that were in flight when the previous run died. Those of a stream never come
            again, so nothing else would replace their incomplete outputs.

    Raises:
        OutputError: They cannot be removed.
    """
    waiting = list(ledger.fact(_FACT) or [])
    if isinstance(job.source, LiveSource):
        ids = sorted(in_flight)
        known = ledger.find(ids)
        waiting += [[asset_id, False] for asset_id in ids if asset_id not in known]
    if not waiting:
        return
    with output_errors(job.output):
        for sink in job.sinks.values():
            for asset_id, is_still in waiting:
                sink.discard(_Gone(asset_id, is_still))
            if isinstance(sink, Durable):
                sink.sync()
        if (mirror := mirror_of(job.output)) is not None:
            mirror.flush()
    ledger.set_fact(_FACT, [])
    ledger.commit()


def _is_still(output: Path, entry: Entry) -> bool:
    """Return whether the outputs of an input are not numbered by frame."""
    if entry.frames != 1 or entry.start is None:
        return entry.frames <= 1
    line: dict[str, Any] = {}
    with open_to_read(output / PREDICTIONS) as file, suppress(ValueError):
        file.seek(entry.start)
        line = json.loads(file.readline(entry.length) or b"{}")
    return line.get("time_s") is None
