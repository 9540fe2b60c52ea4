"""What a watch has counted and not reported yet, which a kill does not lose."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from runners.rundir.commit import Group
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.rundir.ledger.source_files import SourceFiles

_FACT = "unreported"
_AT_ONCE = 500


class Account:
    """Counts of inputs since the last run that ended in order, kept in the ledger.

    A failure counts once for each content of an input, however often it is tried.

    Args:
        ledger: Open.
        files: Of the same ledger.

    Attributes:
        counts: Inputs by outcome.
        failing: Of inputs that failed and were not done since, the SHA-256 of what failed.
    """

    def __init__(self, ledger: Ledger, files: SourceFiles) -> None:
        self._ledger, self._files = ledger, files
        self.counts: Counter[str] = Counter(ledger.fact(_FACT) or {})
        self.failing: dict[str, str | None] = {}
        ids = iter(file.id for file in files.unreported())
        while chunk := list(islice(ids, _AT_ONCE)):
            self.failing |= {entry.id: entry.sha256 for entry in ledger.find(chunk).values()}

    def fresh(self, group: Group) -> Group:
        """Return what counts of a group: not a failure that has been counted."""
        return [(entry, outcome) for entry, outcome in group if not self._is_counted(entry)]

    def write(self, fresh: Group) -> None:
        """Write to the ledger, for the next commit, what will have been counted then."""
        self._ledger.state(_FACT, self.counts + _counted(fresh))

    def add(self, fresh: Group) -> None:
        """Count what is committed."""
        self.counts += _counted(fresh)
        for entry, _ in fresh:
            if entry.outcome == "failed":
                self.failing[entry.id] = entry.sha256
            else:
                self.failing.pop(entry.id, None)

    def close(self) -> None:
        """Begin again, because all has been reported."""
        self._ledger.state(_FACT, {})
        self._files.report()
        self._ledger.commit()

    def _is_counted(self, entry: Entry) -> bool:
        if entry.outcome != "failed" or entry.sha256 is None:
            return False
        return self.failing.get(entry.id) == entry.sha256


def _counted(group: Group) -> Counter[str]:
    return Counter(entry.outcome for entry, _ in group)
