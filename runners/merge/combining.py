"""Combines the ledgers and the predictions of shards, in one commit."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from pipeline.errors import ConfigError, LedgerDamagedError
from pipeline.job import Job
from pipeline.sharding import FOLDER
from pipeline.system.descriptors import status_of
from runners.merge.shards import ShardRun
from runners.rundir import input_order
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.rundir.owned.clearing import clear
from runners.rundir.owned.names import has_run, recorded_outputs
from runners.rundir.translation import output_errors

_FACT = "merged"  # the shards that the output is made of, and its extent at that time
_Keyed = tuple[tuple[int, bytes], Entry, Iterator[bytes]]


def state_of(runs: Sequence[ShardRun]) -> dict[str, Any]:
    """Return a value that identifies the results of the shards."""
    return {
        "listing": runs[0].listing["sha256"],
        "manifests": [run.record["manifest"]["sha256"] for run in runs],
    }


def is_combined(ledger: Ledger, state: Mapping[str, Any]) -> bool:
    """Return whether an output was made of these results."""
    return dict(ledger.fact(_FACT) or {}).get("state") == state


def clear_outdated(job: Job, state: Mapping[str, Any], on_change: str) -> None:
    """Remove an earlier merge if the shards have changed since; refuse any other results.

    Args:
        job: The merged job.
        state: The results of the shards.
        on_change: ``restart`` removes other results, too.

    Raises:
        ConfigError: The output holds results that no merge wrote.
        LedgerDamagedError: Its ledger is damaged.
    """
    output = job.output
    if not has_run(output) or not (status := status_of(output / LEDGER)) or not status.st_size:
        return
    recorded = recorded_outputs(output, None)
    try:
        with Ledger(output / LEDGER) as ledger:
            recorded = recorded_outputs(output, ledger)
            if not ledger.counts().total() or is_combined(ledger, state):
                return
            if on_change != "restart" and not _is_as_merged(ledger):
                others = "results that were added later" if ledger.fact(_FACT) else "other results"
                raise ConfigError(
                    f"{output} holds {others} than those of {FOLDER}/; set "
                    "runner.on_change=restart to replace them by those of the shards"
                )
    except LedgerDamagedError:
        if on_change != "restart":
            raise
    with output_errors(output):
        clear(output, job.sinks, recorded)


def combine(
    job: Job, ledger: Ledger, runs: Sequence[ShardRun], state: Mapping[str, Any], settings: Any
) -> None:
    """Write ``predictions.jsonl`` and the ledger; a kill leaves both as they were, or complete.

    Args:
        job: The merged job.
        ledger: Its ledger, without entries.
        runs: The shards, checked.
        state: As of ``state_of``.
        settings: The settings of the shards, with the device.

    Raises:
        OutputError: The output cannot be written, or a shard was modified.
    """
    ledger.set_fact("settings", settings)
    with output_errors(job.output):
        found = ((entry, lines) for _, entry, lines in heapq.merge(*map(_keyed, runs), key=_key))
        position = input_order.write_ordered(job.output, ledger, found)
        extent = [position.size, position.next_image_id, ledger.counts().total()]
        ledger.set_fact(_FACT, {"state": state, "extent": extent})
        ledger.set_fact("finished", False)
        input_order.commit_order(job.output, ledger, position)


_key = itemgetter(0)


def _keyed(run: ShardRun) -> Iterator[_Keyed]:
    for entry, lines in run.entries():
        yield (entry.place, os.fsencode(entry.id)), entry, lines  # the order of the ledger


def _is_as_merged(ledger: Ledger) -> bool:
    position, merged = ledger.position, ledger.fact(_FACT)
    extent = [position.size, position.next_image_id, ledger.counts().total()]
    return bool(merged) and merged["extent"] == extent
