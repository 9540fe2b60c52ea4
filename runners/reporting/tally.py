"""Counts of a run, kept while outcomes arrive."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import AssetError, PipelineError, printable
from pipeline.job import Outcome, Report
from runners.reporting.console import describe_error
from runners.reporting.status import Status

_log = logging.getLogger("d2run")

_MAX_REASONS = 20
_MAX_NAMES = 3


@dataclass
class Failures:
    """Failed assets by reason; of many reasons and assets only some are named.

    Attributes:
        counts: Number of failed assets by reason.
    """

    counts: Counter[str] = field(default_factory=Counter)
    _names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, asset_id: str, error: PipelineError) -> None:
        """Count a failure; messages that differ only in numbers or the asset's name are equal."""
        text = describe_error(error).replace(asset_id, "…") if asset_id else describe_error(error)
        reason = re.sub(r"\d+", "…", text)
        if reason not in self.counts and len(self.counts) >= _MAX_REASONS:
            reason = "other reasons"
        self.counts[reason] += 1
        names = self._names.setdefault(reason, [])
        if len(names) < _MAX_NAMES:
            names.append(asset_id)

    def lines(self) -> tuple[str, ...]:
        """Return one line per reason, the most common first: ``3 x reason: a.jpg, b.jpg, ...``."""
        return tuple(
            f"{n} x {reason}: {', '.join(self._names[reason])}{', ...' if n > _MAX_NAMES else ''}"
            for reason, n in self.counts.most_common()
        )


@dataclass
class Tally:
    """Counts outcomes and passes them on to ``status.json`` and the log.

    Attributes:
        status: Receives each outcome.
        seconds: Seconds by step.
        counts: Assets by outcome: ``done``, ``failed``.
        detections: Instances by class name.
        failures: Failed assets by reason.
        started: When processing started, on the monotonic clock.
    """

    status: Status
    seconds: dict[str, float]
    counts: Counter[str] = field(default_factory=Counter)
    detections: Counter[str] = field(default_factory=Counter)
    failures: Failures = field(default_factory=Failures)
    started: float = field(default_factory=time.monotonic)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        kind: Literal["done", "failed"] = "done"
        if outcome.error is not None:
            kind = "failed"
            self.failures.add(outcome.asset.id, outcome.error)
            trace = outcome.error.trace if isinstance(outcome.error, AssetError) else ""
            _log.error("%s: %s", printable(outcome.asset.id), outcome.error, extra={"trace": trace})
        self.counts[kind] += 1
        self.detections.update(outcome.detections)
        for step, seconds in outcome.timings.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        instances = sum(outcome.detections.values())
        self.status.advance(kind, outcome.asset.id, seconds=outcome.timings, instances=instances)

    def report(self, output: Path, status: int, message: str, **more: int) -> Report:
        """Return the report of the run so far.

        Args:
            output: The run directory.
            status: The exit status.
            message: Why it is not 0.
            more: Assets by further outcomes; those that are 0 are left out.
        """
        counts = {"done": self.counts["done"], "failed": self.counts["failed"]}
        return Report(
            exit_status=status,
            output=output,
            counts=counts | {name: number for name, number in more.items() if number},
            detections=dict(self.detections),
            failures=self.failures.lines(),
            timings=self.seconds,
            wall_s=time.monotonic() - self.started,
            message=message,
        )


def totals(counts: Mapping[str, int]) -> dict[str, int]:
    """Return how many assets of the output are done and how many failed, in whichever run.

    Args:
        counts: The ledger's.
    """
    return {"done": counts["done"], "failed": counts["failed"]}


def most_common(counts: Counter[str]) -> dict[str, int]:
    """Return the counts of the most common reasons, with the others added up."""
    common = dict(counts.most_common(_MAX_REASONS))
    rest = counts.total() - sum(common.values())
    return common | ({"other reasons": rest} if rest else {})
