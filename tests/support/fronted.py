"""A service with ``runner.address``, but without Ray: its replicas are in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from served import Gate, Served, served_job

from pipeline.job import Job
from runners.cluster.failure import Failure
from runners.cluster.traits import Traits
from runners.serve.http.app import create_app
from runners.serve.http.server import HttpServer
from runners.serve.listening import listen
from runners.serve.replicas.board import News, Started
from runners.serve.replicas.front import Front
from runners.serve.replicas.journal import Journal, NotedMetrics, NotedTraffic
from runners.serve.replicas.wire import Call, Reply, reply_of
from runners.serve.service import Service


class RayError(Exception):
    """A replica has died."""


class RayTaskError(RayError):
    """A replica has raised an error."""


class ReplicaHere:
    """What a replica does, without a process of its own."""

    def __init__(self, job: Job) -> None:
        self.journal = Journal()
        self.gate = Gate(job.runnable)
        self.gate.opened.set()
        runner: Any = job.runner
        self.service = Service(
            replace(job, runnable=self.gate),  # type: ignore[arg-type]
            runner,
            metrics=partial(NotedMetrics, journal=self.journal),
            traffic=NotedTraffic(self.journal),
        )
        self.app = create_app(self.service, runner)

    async def answer(self, call: Call) -> Reply:
        reply = await reply_of(self.app, call)
        return replace(reply, notes=self.journal.removed())


@dataclass
class Calling:
    """A call that can be canceled."""

    task: asyncio.Task[Reply]
    is_canceled: bool = False

    def __await__(self) -> Any:
        return asyncio.shield(self.task).__await__()

    def cancel(self) -> None:
        self.is_canceled = self.task.cancel()


@dataclass
class Deployed:
    """Replicas in this process, which are called in turn."""

    replicas: list[ReplicaHere]
    error: Exception | None = None
    calls: list[Calling] = field(default_factory=list)
    update: Callable[[News, int], None] = lambda news, n: None
    fail: Callable[[Exception], None] = lambda error: None
    lost: tuple[type[Exception], ...] = (ConnectionError,)

    def __enter__(self) -> Deployed:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def first_news(self) -> News:
        return self.news("node1/cpu", "node2/cpu")

    def news(self, *devices: str, failures: tuple[Failure, ...] = ()) -> News:
        job = self.replicas[0].service.job
        traits = Traits.of(job.runnable, entered=True)
        started = [Started(str(i), each, {}, traits) for i, each in enumerate(devices)]
        return News(started, (), failures)

    def watch(self, update: Any, fail: Any) -> None:
        self.update, self.fail = update, fail

    @property
    def ray(self) -> Any:
        errors = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        return SimpleNamespace(exceptions=errors)

    @property
    def handle(self) -> Any:
        return SimpleNamespace(answer=SimpleNamespace(remote=self._call))

    def _call(self, call: Call) -> Calling:
        if self.error is not None:
            raise self.error
        replica = self.replicas[len(self.calls) % len(self.replicas)]
        self.calls.append(Calling(asyncio.ensure_future(replica.answer(call))))
        return self.calls[-1]


@dataclass
class Fronted(Served):
    """A running front."""

    deployed: Deployed = None  # type: ignore[assignment]


@contextmanager
def fronted(*arguments: str) -> Iterator[Fronted]:
    """Run a front with two replicas while the block runs."""
    job = served_job("runner.address=local", *arguments)
    runner: Any = job.runner
    here = [ReplicaHere(served_job("runner.address=local", *arguments)) for _ in range(2)]
    deployed: Any = Deployed(here)
    listening = listen(runner)
    with (
        here[0].gate, here[1].gate, here[0].service, here[1].service,
        listening.socket, Front(job, runner, deployed) as front,
    ):  # fmt: skip
        port = listening.socket.getsockname()[1]
        gates = [each.gate for each in here]
        with HttpServer(front, runner, listening) as http:
            try:
                running: Any = front
                yield Fronted(running, http, port, gates, deployed)
            finally:
                for gate in gates:
                    gate.opened.set()
