"""The report of skipped files, at most one line per reason and hour."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import printable
from runners.watch.schedule import SKIPPED_REPORT_S

# Reasons that are intended or pass by themselves, and are not reported.
# fmt: off
_EXPECTED = frozenset((
    "hidden", "system file", "temporary file", "ignored", "results of a run", "without a marker",
    "directory that is not searched", "no such file",
))
# fmt: on


class SkippedFilesReport:
    """Collects skipped files, and reports each reason at most once per hour.

    Args:
        clock: Returns the current time in seconds; monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._unreported: dict[str, tuple[int, str]] = {}  # number and example, by reason
        self._reported_at: dict[str, float] = {}

    def add(self, reason: str, asset_id: str, count: int = 1) -> None:
        """Add ``count`` skipped files, one of them ``asset_id``."""
        if reason not in _EXPECTED:
            before, example = self._unreported.get(reason, (0, asset_id))
            self._unreported[reason] = before + count, example

    def lines(self) -> list[str]:
        """Return one line for each reason that is due; it is then reported."""
        now = self._clock()
        due = [
            reason
            for reason in self._unreported
            if now - self._reported_at.get(reason, float("-inf")) >= SKIPPED_REPORT_S
        ]
        lines = []
        for reason in due:
            count, example = self._unreported.pop(reason)
            self._reported_at[reason] = now
            more = f" and {count - 1} more" if count > 1 else ""
            lines.append(f"skipped: {printable(example)}{more}: {reason}")
        return lines
