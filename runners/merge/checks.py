"""Checks that shards belong together: finished, of the same settings and inputs, no gap."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pipeline.errors import ConfigError
from pipeline.redaction import redacted
from pipeline.sharding import shard_of
from pipeline.sources.paths import Origin
from runners.merge.shards import ShardRun
from runners.rundir.lists import SKIPPED
from runners.rundir.settings import differences

_IDS = "SELECT id FROM entries WHERE id > ? ORDER BY id LIMIT 4096"
_DONE = (0, 3)  # exit statuses of runs that have processed all inputs


def check_shards(runs: Sequence[ShardRun]) -> None:
    """Check that the shards are one job.

    Raises:
        ConfigError: They are not; names the first shard that does not fit, and why.
        OutputError: A ledger or a manifest is damaged.
    """
    for run in runs:
        _check_name(run, runs)
        _check_finished(run)
    for run in runs[1:]:
        _compare(runs[0], run)
    for run in runs:
        _check_ids(run)


def reference_of(runs: Sequence[ShardRun]) -> ShardRun:
    """Return a shard whose record knows the device: one that had inputs, if any had."""
    return next((run for run in runs if _settings(run)["device"]), runs[0])


def _check_name(run: ShardRun, runs: Sequence[ShardRun]) -> None:
    recorded = run.listing.get("index"), run.listing.get("count")
    if recorded == (run.shard.index, run.shard.count):
        return
    if recorded == (None, None):
        raise ConfigError(f"{run} was not run as a shard; run it with runner.shard={run.shard}")
    other = [each.path for each in runs if (each.shard.index, each.shard.count) == recorded]
    overlap = f", so it overlaps {other[0]}" if other else ""
    raise ConfigError(
        f"{run} holds shard {recorded[0]}/{recorded[1]}{overlap}; remove it and run "
        f"runner.shard={run.shard}"
    )


def _check_finished(run: ShardRun) -> None:
    state, status = run.record.get("state"), run.record.get("exit_status")
    later = dict(run.record.get("counts") or {}).get("later", 0)
    if state != "ended":
        problem = "it was interrupted"
    elif status not in _DONE:
        problem = f"it ended with exit status {status}"
    elif later or not run.ledger.fact("finished"):
        problem = f"{later or 'some'} of its inputs were not processed"
    else:
        return
    raise ConfigError(
        f"{run} has not finished: {problem}; run it again with runner.shard={run.shard}"
    )


def _compare(first: ShardRun, run: ShardRun) -> None:
    if changed := differences(_settings(first), _settings(run)):
        raise ConfigError(
            f"{run} has other settings than shard {first.shard} ({'; '.join(changed)}); run all "
            "shards with the same options"
        )
    if not _same_inputs(first.run.origins, run.run.origins):
        raise ConfigError(
            f"{run} is of another input than shard {first.shard}: it is {_text(run)}, not "
            f"{_text(first)}; run all shards with the same input"
        )
    keys = ("inputs", "sha256")
    if any(first.listing.get(key) != run.listing.get(key) for key in keys) or (
        first.digests.get(SKIPPED) != run.digests.get(SKIPPED)
    ):
        raise ConfigError(
            f"{run} listed other files ({run.listing.get('inputs')} inputs) than shard "
            f"{first.shard} ({first.listing.get('inputs')} inputs), because the input changed in "
            "between; run all shards again, which only processes what is new"
        )


def _check_ids(run: ShardRun) -> None:
    """Check that each result belongs to its shard, so that there is no gap and no overlap."""
    own, last = 0, b""
    while rows := run.ledger.execute(_IDS, (last,)):
        own, last = own + len(rows), rows[-1][0]
        for asset_id in (os.fsdecode(row[0]) for row in rows):
            index = shard_of(asset_id, run.shard.count)
            if index != run.shard.index:
                raise ConfigError(
                    f"{run} overlaps shard {index}/{run.shard.count}, to which its result of "
                    f"'{asset_id}' belongs; remove it and run runner.shard={run.shard}"
                )
    if own < run.listing.get("own", 0):
        raise ConfigError(
            f"{run} has not finished: it holds {own} of its {run.listing['own']} inputs; run it "
            f"again with runner.shard={run.shard}"
        )


def _settings(run: ShardRun) -> dict[str, Any]:
    return dict(redacted(run.ledger.fact("settings")))


def _same_inputs(one: list[list[dict[str, Any]]], other: list[list[dict[str, Any]]]) -> bool:
    return [len(each) for each in one] == [len(each) for each in other] and all(
        Origin(**a).matches(Origin(**b))
        for mine, theirs in zip(one, other, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )


def _text(run: ShardRun) -> str:
    return ", ".join(str(Origin(**origin)) for each in run.run.origins for origin in each)
