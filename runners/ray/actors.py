"""Workers as Ray actors."""

from __future__ import annotations

import pickle
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from pipeline.errors import WorkersLostError
from pipeline.protocols import Asset
from runners.cluster.signals import signals_deferred
from runners.ray.pool import Call, WorkerLost, pickled
from runners.ray.worker import CONTROL, Worker


class Actors:
    """A pool of Ray actors, which Ray restarts elsewhere when they die; no call is repeated.

    Args:
        ray: The module, connected to a cluster.
        number: Number of actors.
        options: Ray's options for each: what it needs.
        arguments: Those of ``Worker``.
        connection: Closed with the pool.
    """

    def __init__(
        self,
        ray: Any,
        number: int,
        options: Mapping[str, Any],
        arguments: tuple[Any, ...],
        connection: ExitStack,
    ) -> None:
        self._ray, self._connection = ray, connection
        make = ray.remote(
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=4,  # the chunks that a worker has, and a start
            concurrency_groups={CONTROL: 1},  # answers while the worker works
            **options,
        )(Worker)
        self._actors = [make.remote(*arguments) for _ in range(number)]

    def workers(self) -> Sequence[int]:
        """Return the numbers of the actors."""
        return range(len(self._actors))

    def start(self, worker: int) -> Call:
        """Request that an actor loads its model."""
        return self._call(worker, "start")

    def process(self, worker: int, assets: Sequence[Asset], *, isolate: bool) -> Call:
        """Request that an actor processes assets.

        Raises:
            ConfigError: An asset cannot be pickled.
        """
        return self._call(worker, "process", pickled(assets), isolate)

    def progress(self, worker: int) -> Call:
        """Request the number of steps, which is answered while the actor works."""
        return self._call(worker, "progress")

    def restart(self, worker: int) -> None:
        """Kill an actor's process; Ray starts another one."""
        with suppress(self._ray.exceptions.RayError, WorkersLostError), self._reached():
            self._ray.kill(self._actors[worker], no_restart=False)

    def wait(self, calls: Collection[Call], timeout_s: float) -> Collection[Call]:
        """Return those of the calls that are answered or lost."""
        if not calls:
            time.sleep(timeout_s)
            return []
        with self._reached():
            done, rest = self._ray.wait(list(calls), num_returns=1, timeout=timeout_s)
            if done and rest:  # the others that are done by now
                more, _ = self._ray.wait(rest, num_returns=len(rest), timeout=0)
                done = [*done, *more]
        return list(done)

    def result(self, call: Call) -> Any:
        """Return the answer to a call.

        Raises:
            WorkerLost: The actor died, cannot be reached, or was replaced.
        """
        exceptions = self._ray.exceptions
        try:
            with self._reached():
                answer = self._ray.get(call)
        except exceptions.RayTaskError as exc:
            raise RuntimeError(f"a worker failed: {exc}") from exc
        except exceptions.RayError as exc:
            raise WorkerLost("died") from exc
        if answer is None:
            raise WorkerLost("died")
        return pickle.loads(answer) if isinstance(answer, bytes) else answer

    def close(self) -> None:
        """Kill all actors."""
        actors, self._actors = self._actors, []
        for actor in actors:
            with suppress(self._ray.exceptions.RayError, WorkersLostError), self._reached():
                self._ray.kill(actor)
        self._connection.close()

    def _call(self, worker: int, name: str, *arguments: Any) -> Call:
        with self._reached():
            call: Call = getattr(self._actors[worker], name).remote(*arguments)
        return call

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Call into Ray; raise WorkersLostError if ``ray://`` has lost its connection."""
        try:
            with signals_deferred():
                yield
        except Exception as exc:  # of no type of its own
            if self._ray.is_initialized():
                raise
            raise WorkersLostError(
                "the connection to the cluster is lost; what is committed is kept"
            ) from exc
