"""What a run counts while outcomes pass by."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import printable
from pipeline.job import Outcome, Report
from runners.reporting.status import Status
from runners.rundir.ledger.ledger import Ledger

_log = logging.getLogger("d2run")


_REASONS = 20


@dataclass
class Tally:
    """Counts, and says what happens to ``status.json`` and to the log.

    Attributes:
        status: Is told of each outcome.
        seconds: By step.
        counts: Inputs by outcome: ``done``, ``failed``.
        detections: Instances by class name.
        started: When work began, on the monotonic clock.
    """

    status: Status
    seconds: dict[str, float]
    counts: Counter[str] = field(default_factory=Counter)
    detections: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        kind: Literal["done", "failed"] = "done"
        if outcome.error is not None:
            kind = "failed"
            trace = {"trace": getattr(outcome.error, "trace", "")}
            _log.error("%s: %s", printable(outcome.asset.id), outcome.error, extra=trace)
        self.counts[kind] += 1
        self.detections.update(outcome.detections)
        for step, seconds in outcome.timings.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        instances = sum(outcome.detections.values())
        self.status.advance(kind, outcome.asset.id, seconds=outcome.timings, instances=instances)

    def report(self, output: Path, status: int, message: str, **more: int) -> Report:
        """Return the end of the run; of ``more`` counts those that are not 0."""
        counts = {"done": self.counts["done"], "failed": self.counts["failed"]}
        return Report(
            exit_status=status,
            output=output,
            counts=counts | {name: number for name, number in more.items() if number},
            detections=dict(self.detections),
            timings=self.seconds,
            wall_s=time.monotonic() - self.started,
            message=message,
        )


def totals(ledger: Ledger) -> dict[str, int]:
    """Return how many inputs of the output are done and how many failed, by whichever run."""
    counts = ledger.counts()
    return {"done": counts["done"], "failed": counts["failed"]}


def most_common(skipped: Counter[str]) -> dict[str, int]:
    """Return the number of skipped files by reason, the rarest of many reasons together."""
    common = dict(skipped.most_common(_REASONS))
    rest = skipped.total() - sum(common.values())
    return common | ({"other reasons": rest} if rest else {})
