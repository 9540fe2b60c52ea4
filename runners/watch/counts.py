"""Counts that a watch has not reported yet; they survive a killed process."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from runners.rundir.commit import Group
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.rundir.ledger.source_files import SourceFiles

_FACT = "unreported"
_CHUNK = 500  # ids per query


class UnreportedCounts:
    """Counts of inputs since the last run that ended in order, kept in the ledger.

    A failure counts once for each content of an input, however often it is tried.

    Args:
        ledger: Open.
        files: The source files of the same ledger.

    Attributes:
        counts: Number of inputs by outcome.
        failing: SHA-256 of the content that failed, for each input that failed and has not
            succeeded since.
    """

    def __init__(self, ledger: Ledger, files: SourceFiles) -> None:
        self._ledger, self._files = ledger, files
        self.counts: Counter[str] = Counter(ledger.fact(_FACT) or {})
        self.failing: dict[str, str | None] = {}
        ids = iter(file.id for file in files.unreported())
        while chunk := list(islice(ids, _CHUNK)):
            self.failing |= {entry.id: entry.sha256 for entry in ledger.find(chunk).values()}

    def uncounted(self, group: Group) -> Group:
        """Return the part of a group that counts: not the failures that were counted before."""
        return [(entry, outcome) for entry, outcome in group if not self._is_counted(entry)]

    def write(self, group: Group) -> None:
        """Write the counts including a group to the ledger, as part of the next commit."""
        self._ledger.set_fact(_FACT, self.counts + _counted(group))

    def add(self, group: Group) -> None:
        """Count a group that is committed."""
        self.counts += _counted(group)
        for entry, _ in group:
            if entry.outcome == "failed":
                self.failing[entry.id] = entry.sha256
            else:
                self.failing.pop(entry.id, None)

    def reset(self) -> None:
        """Start from zero at the next run, because everything has been reported."""
        self._ledger.set_fact(_FACT, {})
        self._files.report()
        self._ledger.commit()

    def _is_counted(self, entry: Entry) -> bool:
        if entry.outcome != "failed" or entry.sha256 is None:
            return False
        return self.failing.get(entry.id) == entry.sha256


def _counted(group: Group) -> Counter[str]:
    return Counter(entry.outcome for entry, _ in group)
