"""Where replicas report to the command that has started them; no Ray here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runners.cluster.failure import Failure
from runners.cluster.traits import Traits
from runners.rundir.settings import differences
from runners.serve.replicas.wire import Notes

_FORGOTTEN_S = 20.0  # several times the interval of health checks


@dataclass(frozen=True, slots=True)
class Started:
    """A replica has loaded its model.

    Attributes:
        id: Its id.
        device: Machine and device, such as ``node7/cuda:3``.
        settings: ``Job.settings()`` there; those of all replicas must be equal.
        traits: What is known of its runnable.
    """

    id: str
    device: str
    settings: Mapping[str, Any]
    traits: Traits


@dataclass(frozen=True, slots=True)
class News:
    """What replicas have reported.

    Attributes:
        replicas: Those that have started and are healthy.
        notes: What they have noted since the previous news.
        failures: Why others did not start, since the previous news.
    """

    replicas: Sequence[Started]
    notes: Notes
    failures: Sequence[Failure]


class Board:
    """Collects reports of replicas. It ends with the command, which replicas notice."""

    def __init__(self) -> None:
        self._replicas: dict[str, Started] = {}
        self._seen_s: dict[str, float] = {}
        self._notes: list[tuple[str, tuple[Any, ...]]] = []
        self._failures: list[Failure] = []
        self._settings: Mapping[str, Any] | None = None

    def start(self, started: Started) -> Sequence[str]:
        """Add a replica, unless it computes otherwise than the first: return what differs."""
        if self._settings is None:
            self._settings = started.settings
        changed = differences(self._settings, started.settings)
        if not changed:
            self._replicas[started.id] = started
            self.beat(started.id, ())
        return changed

    def fail(self, failure: Failure) -> None:
        """Add the reason why a replica does not start."""
        self._failures.append(failure)

    def beat(self, replica: str, notes: Notes) -> None:
        """Note that a replica is healthy, and what it has noted."""
        self._seen_s[replica] = time.monotonic()
        self._notes += notes

    def news(self) -> News:
        """Return what has been reported."""
        now_s = time.monotonic()
        healthy = [
            started
            for replica, started in self._replicas.items()
            if now_s < self._seen_s[replica] + _FORGOTTEN_S
        ]
        news = News(healthy, self._notes, self._failures)
        self._notes, self._failures = [], []
        return news
