"""Counts outcomes and groups failures while a run is in progress."""

from __future__ import annotations

import heapq
import logging
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import AssetError, PipelineError, printable
from pipeline.job import FailureGroup, Outcome, Report
from runners.reporting.console import OTHERS, describe_error
from runners.reporting.status import Status

_log = logging.getLogger("d2run")

_MAX_REASONS = 20
_MAX_EXAMPLES = 3
_N_SLOWEST = 20


class Failures:
    """Groups failed assets by reason.

    Memory is bounded: at most 20 reasons; the rest are counted as 'other reasons'.
    """

    def __init__(self) -> None:
        self._groups: dict[str, FailureGroup] = {}

    def add(self, asset_id: str, error: PipelineError) -> None:
        """Count a failure; messages that differ only in numbers or the asset's id are equal."""
        text = describe_error(error)
        if asset_id:
            text = text.replace(asset_id, "…")
        key = reason = re.sub(r"\b\d+\b", "…", text)
        if key not in self._groups and len(self._groups) >= _MAX_REASONS:
            key = text = reason = OTHERS
        group = self._groups.get(key, FailureGroup(text, 0, ()))
        self._groups[key] = FailureGroup(
            text if group.reason == text else reason,
            group.count + 1,
            (*group.examples, asset_id)[:_MAX_EXAMPLES],
        )

    def groups(self) -> tuple[FailureGroup, ...]:
        """Return the groups, the largest first."""
        return tuple(sorted(self._groups.values(), key=lambda group: -group.count))


@dataclass
class Tally:
    """Counts outcomes and passes them on to ``status.json`` and the log.

    Attributes:
        status: Receives each outcome.
        seconds: Seconds by step.
        counts: Number of assets by outcome: ``done``, ``failed``.
        detections: Number of instances by class name.
        failures: The assets that failed or are not done in full, grouped by reason.
        slowest: Seconds and ids of the inputs that took longest, as a heap.
        started: When processing started, on the monotonic clock.
    """

    status: Status
    seconds: dict[str, float]
    counts: Counter[str] = field(default_factory=Counter)
    detections: Counter[str] = field(default_factory=Counter)
    failures: Failures = field(default_factory=Failures)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        kind: Literal["done", "failed"] = "done"
        if outcome.error is not None:
            kind = "failed"
        if error := outcome.error or outcome.partial:
            self.failures.add(outcome.asset.id, error)
            trace = error.trace if isinstance(error, AssetError) else ""
            _log.error("%s: %s", printable(outcome.asset.id), error, extra={"trace": trace})
        self.counts[kind] += 1
        self.detections.update(outcome.detections)
        for step, seconds in outcome.timings.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        working_s = sum(s for step, s in outcome.timings.items() if step != "waiting")
        heapq.heappush(self.slowest, (working_s, outcome.asset.id))
        if len(self.slowest) > _N_SLOWEST:
            heapq.heappop(self.slowest)
        instances = sum(outcome.detections.values())
        self.status.advance(kind, outcome.asset.id, seconds=outcome.timings, instances=instances)

    def report(self, output: Path, exit_status: int, message: str, **more: int) -> Report:
        """Return the report of the run so far.

        Args:
            output: The run directory.
            exit_status: The exit status.
            message: The reason if the exit status is not 0.
            more: Additional outcome counts; zeros are omitted.
        """
        counts = {"done": self.counts["done"], "failed": self.counts["failed"]}
        return Report(
            exit_status=exit_status,
            output=output,
            counts=counts | {name: number for name, number in more.items() if number},
            detections=dict(self.detections),
            failures=self.failures.groups(),
            timings=self.seconds,
            slowest=tuple((name, s) for s, name in sorted(self.slowest, reverse=True)),
            wall_s=time.monotonic() - self.started,
            message=message,
        )


def verdict(failed: int, partial: int, total: int, failures: Path) -> tuple[int, str]:
    """Return exit status and message of a run that has processed all of its assets.

    Args:
        failed: Number of assets that failed.
        partial: Number of assets that are done, but not in full.
        total: Number of assets.
        failures: The list of failures.
    """
    status, message = 0, ""
    if failed:
        status = 3
        message = f"{failed} of {total} inputs failed; see {failures}"
    if partial:
        status = 3
        text = f"{partial} of {total} inputs could not be decoded in full"
        message = f"{message}; {text}" if message else f"{text}; see {failures}"
    return status, message


def totals(counts: Mapping[str, int]) -> dict[str, int]:
    """Return how many assets of the output are done and how many failed, across all runs.

    Args:
        counts: Counts from the ledger.
    """
    return {"done": counts["done"], "failed": counts["failed"]}


def most_common(counts: Counter[str]) -> dict[str, int]:
    """Return the counts of the most common reasons, with the others added up."""
    common = dict(counts.most_common(_MAX_REASONS))
    rest = counts.total() - sum(common.values())
    return common | ({OTHERS: rest} if rest else {})
