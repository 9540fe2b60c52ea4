"""Reports what a service does on standard error: errors once, requests as counts per minute."""

from __future__ import annotations

from collections import Counter
from threading import Lock

from pipeline.system.terminal import print_stderr

_KINDS = {2: "answered", 3: "answered", 4: "refused", 5: "failed"}
_MAX_REMEMBERED = 100


class Traffic:
    """Counts requests, and prints each error once. Can be called on any thread.

    Args:
        quiet: Print errors only.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._lock = quiet, Lock()
        self._counts: Counter[str] = Counter()
        self._reported: set[str] = set()

    def count(self, status: int) -> None:
        """Count a request.

        Args:
            status: The status of the answer; 0 if the client was gone before there was one.
        """
        with self._lock:
            self._counts[_KINDS.get(status // 100, "canceled by the client")] += 1

    def report(self, error: str) -> None:
        """Print an error, unless it has been printed since it was last resolved."""
        with self._lock:
            if error in self._reported:
                return
            if len(self._reported) >= _MAX_REMEMBERED:
                self._reported.clear()
            self._reported.add(error)
        print_stderr(f"error: {error}")

    def resolve(self, error: str) -> None:
        """Report that an error no longer occurs."""
        with self._lock:
            if error not in self._reported:
                return
            self._reported.remove(error)
        print_stderr(f"resolved: {error}")

    def print_counts(self) -> None:
        """Print the number of requests since the last call, if there were any."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if counts and not self._quiet:
            kinds = ", ".join(f"{number} {kind}" for kind, number in counts.most_common())
            print_stderr(f"{counts.total()} request{'s' * (counts.total() > 1)}: {kinds}")
