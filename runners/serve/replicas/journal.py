"""What a replica counts and reports, noted to be repeated by the front."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any, Literal

from runners.serve.metrics import Metrics
from runners.serve.replicas.wire import Notes
from runners.serve.traffic import Traffic


class Journal:
    """Notes calls of methods: their names and arguments. Can be used on any thread.

    The notes leave with the next answer, so that the front has counted an image when its client has
    the answer, and what a replica has counted remains when it dies.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._notes: list[tuple[str, tuple[Any, ...]]] = []

    def note(self, name: str, *arguments: Any) -> None:
        """Note a call."""
        with self._lock:
            self._notes.append((name, arguments))

    def removed(self) -> Notes:
        """Return the notes, and forget them."""
        with self._lock:
            notes, self._notes = self._notes, []
        return notes


def repeat(notes: Notes, metrics: Metrics, traffic: Traffic) -> None:
    """Make the noted calls."""
    for name, arguments in notes:
        getattr(traffic if name in ("report", "resolve") else metrics, name)(*arguments)


class NotedMetrics(Metrics):
    """Metrics that note what the engine counts. The front counts requests by itself.

    Args:
        *arguments: Those of ``Metrics``.
        journal: Gets the notes.
    """

    def __init__(self, *arguments: Any, journal: Journal) -> None:
        self._journal = journal
        super().__init__(*arguments)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Do nothing."""

    def count_forward(self, n_frames: int, seconds: float) -> None:
        """Note a forward."""
        self._journal.note("count_forward", n_frames, seconds)

    def count_input(
        self, outcome: str, detections: Mapping[str, int], seconds: Mapping[str, float]
    ) -> None:
        """Note an image."""
        self._journal.note("count_input", outcome, dict(detections), dict(seconds))

    def count_seconds(self, seconds: Mapping[str, float]) -> None:
        """Note seconds by step."""
        self._journal.note("count_seconds", dict(seconds))

    def count_recorded(self, outcome: Literal["written", "lost"], number: int = 1) -> None:
        """Do nothing: replicas do not record."""


class NotedTraffic(Traffic):
    """Notes errors instead of printing them.

    Args:
        journal: Gets the notes.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(quiet=True)
        self._journal = journal

    def count(self, status: int) -> None:
        """Do nothing: the front counts requests."""

    def report(self, error: str) -> None:
        """Note an error."""
        self._journal.note("report", error)

    def resolve(self, error: str) -> None:
        """Note that an error no longer occurs."""
        self._journal.note("resolve", error)
