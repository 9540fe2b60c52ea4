"""What the executor needs of workers, wherever they run; no Ray here."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.errors import ConfigError
from pipeline.job import Outcome
from pipeline.protocols import Asset
from runners.cluster.traits import Traits

Call = Hashable  # a request to a worker that may not be answered yet


class WorkerLost(Exception):
    """A worker will not answer a call; the message is what it did, such as ``died``."""


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has loaded its model.

    Attributes:
        host: Name of its machine.
        settings: ``Job.settings()`` there; those of all workers must be equal.
        traits: What else is known of the runnable, now that it is entered.
    """

    host: str
    settings: Mapping[str, Any]
    traits: Traits


@dataclass(frozen=True, slots=True)
class Processed:
    """A worker has processed a chunk, and its outputs are durable.

    Attributes:
        outcomes: One per asset.
        seconds: How long it took.
        changes: Size and time of each file that the worker has uploaded, ``None`` for removed ones;
            empty unless the output is in an object store.
    """

    outcomes: Sequence[Outcome]
    seconds: float
    changes: Mapping[str, tuple[int, int] | None] = field(default_factory=dict)


def pickled(assets: Sequence[Asset]) -> bytes:
    """Return assets as they are sent to a worker.

    Raises:
        ConfigError: One of them cannot be sent.
    """
    try:
        return pickle.dumps(list(assets))
    except Exception as exc:  # of any type: a custom source has its own assets
        raise ConfigError(
            f"'{assets[0].id}' cannot be sent to a worker: {exc}; use runner=batch"
        ) from exc


class Pool(Protocol):
    """Workers by number, and calls to them. A worker answers ``start`` and ``process`` in order."""

    def workers(self) -> Sequence[int]:
        """Return the numbers of the workers."""
        ...

    def start(self, worker: int) -> Call:
        """Request that a worker loads its model; answered by ``Started`` or a ``Failure``."""
        ...

    def process(self, worker: int, assets: Sequence[Asset], *, isolate: bool) -> Call:
        """Request that a worker processes assets; answered by ``Processed`` or a ``Failure``.

        Args:
            worker: Its number.
            assets: The assets.
            isolate: Whether to decode them in processes of their own.

        Raises:
            ConfigError: An asset cannot be sent to a worker.
        """
        ...

    def progress(self, worker: int) -> Call:
        """Request how many steps a worker has done so far; answered at once by a number."""
        ...

    def restart(self, worker: int) -> None:
        """Kill a worker's process; another one replaces it, which must be started."""
        ...

    def wait(self, calls: Collection[Call], timeout_s: float) -> Collection[Call]:
        """Return those of the calls that are answered or lost, at the latest after a time."""
        ...

    def result(self, call: Call) -> Any:
        """Return the answer to a call.

        Raises:
            WorkerLost: There will be none.
        """
        ...

    def close(self) -> None:
        """Kill all workers; can be repeated."""
        ...
