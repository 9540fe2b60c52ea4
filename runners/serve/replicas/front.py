"""What clients connect to: it passes their requests to replicas, and answers those of monitors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from pipeline.job import Job
from pipeline.records import Frame
from runners.cluster.traits import Traits
from runners.serve.errors import RequestError
from runners.serve.metrics import Metrics
from runners.serve.options import ServeOptions
from runners.serve.pace import Pace
from runners.serve.replicas.board import News
from runners.serve.replicas.deployment import Deployment
from runners.serve.replicas.journal import repeat
from runners.serve.replicas.wire import Call, Reply
from runners.serve.traffic import Traffic

_LOST = "a replica was lost; it is started again"
_NONE = "no replica is running; requests get status 503"
_MAX_BYTES = 1 << 30  # of the bodies in memory
_RETRY_S = 1


class KnownRunnable:
    """Stands for the runnable of the replicas; they alone have a model.

    Args:
        job: The job with the runnable that each replica builds for itself.
        traits: Those of a replica.
    """

    def __init__(self, job: Job, traits: Traits) -> None:
        self._traits = traits
        self.class_names = job.runnable.class_names
        self.batch_by_shape = False
        self.device, self.fields = traits.device, traits.fields
        self.numerics = traits.numerics or {}
        self.warnings = traits.warnings

    def describe(self) -> Mapping[str, Any]:
        """Return the device of a replica, and how it computes."""
        return self._traits.description or {"device": self.device}

    def __enter__(self) -> KnownRunnable:
        """Do nothing."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing."""

    def predict(self, frames: Sequence[Frame]) -> NoReturn:
        """Refuse."""
        raise RuntimeError("KnownRunnable.predict: only replicas have the model")


class Front:
    """Passes requests to the replicas of a deployment, and counts what they do.

    Every request that could need the model, which is every POST, is answered by a replica, by the
    same application as without Ray. Methods are called on the thread of the event loop, unless they
    say otherwise.

    Args:
        job: The job.
        options: How much is accepted.
        deployment: The replicas.

    Attributes:
        is_draining: Whether the service is stopping: it answers what has reached it.
        failure: The error that ended the service.
        ended: Done when the service has ended by itself.
        devices: Machine and device of each replica.
        traffic: Counts requests and reports errors.
        metrics: Counts what the replicas do.
    """

    def __init__(self, job: Job, options: ServeOptions, deployment: Deployment) -> None:
        self.job, self.options = job, options
        self.is_draining = False
        self.failure: BaseException | None = None
        self.ended: Future[None] = Future()
        self.devices: list[str] = []
        self.traffic = Traffic(quiet=job.config["quiet"])
        self._deployment = deployment
        self._pace = Pace()
        self._n_bytes = self._n_running = self._n_most = 0
        self._calls: set[asyncio.Future[Reply]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # of the HTTP server

    def __enter__(self) -> Front:
        """Start the replicas.

        Raises:
            PipelineError: They do not start; of the class that a replica has raised.
        """
        deployment = self._deployment.__enter__()
        try:
            news = deployment.first_news()
            runnable: Any = KnownRunnable(self.job, news.replicas[0].traits)
            self.job = replace(self.job, runnable=runnable)
            self.metrics = Metrics([self.job], lambda: self.in_flight, lambda: self.state == "ok")
            self.metrics.add_gauge("d2run_replicas", "Replicas that run.", lambda: self._n_running)
            self._update(news, len(news.replicas))
            deployment.watch(self._update, self._fail)
        except BaseException:
            deployment.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the replicas."""
        self._deployment.__exit__()

    @property
    def in_flight(self) -> int:
        """Number of requests that wait or are in progress."""
        return self._pace.in_flight

    @property
    def state(self) -> str:
        """``ok``, or why no new requests should be sent here."""
        if self.failure is not None:
            return "failed"
        if self.is_draining:
            return "stopping"
        return "ok" if self._n_running else "no replica"

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a replica answer a request.

        Raises:
            RequestError: There is no room, or no replica, or it has failed.
        """
        self._check_room()
        self._loop = asyncio.get_running_loop()
        body = bytearray()
        try:
            async for chunk in _chunks(receive):
                body += chunk
                self._n_bytes += len(chunk)
                if self._n_bytes > _MAX_BYTES:
                    raise self._busy(f"the limit is {_MAX_BYTES >> 20} MiB of requests")
            self._check_room()
            with self._pace.counted():
                reply = await self._reply(Call.of(scope, bytes(body)))
        finally:
            self._n_bytes -= len(body)
        scope["route"] = SimpleNamespace(path=reply.route) if reply.route else None
        start = {"status": reply.status, "headers": reply.headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, call: Call) -> Reply:
        exceptions = self._deployment.ray.exceptions
        try:
            response = self._deployment.handle.answer.remote(call)
            answer: asyncio.Future[Reply] = asyncio.ensure_future(response)
            self._calls.add(answer)
            try:
                reply = await answer
            except asyncio.CancelledError:  # the client is gone, or all replicas are
                response.cancel()
                if answer not in self._calls:
                    raise self._lost() from None
                raise
            finally:
                self._calls.discard(answer)
        except exceptions.RayTaskError:
            raise
        except (exceptions.RayError, *self._deployment.lost) as exc:
            raise self._lost() from exc
        repeat(reply.notes, self.metrics, self.traffic)
        return reply

    def _lost(self) -> RequestError:
        return RequestError(
            503, "the replica with this request has failed; send it again", _RETRY_S
        )

    def _give_up(self) -> None:
        """Answer the requests that Ray would keep until there is a replica again."""
        calls, self._calls = self._calls, set()
        for call in calls:
            call.cancel()

    def _check_room(self) -> None:
        if self.failure is not None or not self._n_running:
            raise RequestError(503, "no replica is running; try again later", _RETRY_S)
        limit = self.options.max_queue * self._n_running
        if self.in_flight >= limit:
            raise self._busy(f"the limit is runner.max_queue={self.options.max_queue} per replica")

    def _busy(self, limit: str) -> RequestError:
        return RequestError(
            429,
            f"{self.in_flight} requests are in progress, {limit}; try again later",
            retry_after_s=self._pace.retry_after_s,
        )

    def _update(self, news: News, n_running: int) -> None:
        """Note what replicas have reported, on any thread."""
        if not self.is_draining:
            self._report(n_running)
        self._n_running = n_running
        if not n_running and self._loop is not None:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._give_up)
        repeat(news.notes, self.metrics, self.traffic)
        devices = sorted(each.device for each in news.replicas)
        if devices != self.devices:
            self.devices = devices
            self.metrics.set_devices(devices)
        for failure in news.failures:
            self.traffic.report(f"a replica does not start: {failure.message}")

    def _report(self, n_running: int) -> None:
        if n_running < self._n_running:
            self.traffic.report(_LOST if n_running else _NONE)
        elif n_running > self._n_running:
            self.traffic.resolve(_NONE)
            self._n_most = max(self._n_most, n_running)
            if n_running == self._n_most:
                self.traffic.resolve(_LOST)

    def _fail(self, error: Exception) -> None:
        """End the service, on any thread."""
        self.failure = error
        self.ended.set_result(None)


async def _chunks(receive: Receive) -> Any:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return
