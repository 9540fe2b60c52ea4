"""What the HTTP application needs of a service, wherever the model is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.job import Job
from runners.serve.metrics import Metrics
from runners.serve.traffic import Traffic

Forward = Callable[[Scope, Receive, Send], Awaitable[None]]


class Serving(Protocol):
    """A service; see ``Service`` and ``Front``.

    Attributes:
        is_draining: Whether the service is stopping: it answers what has reached it.
    """

    is_draining: bool

    @property
    def job(self) -> Job:
        """The job."""
        ...

    @property
    def traffic(self) -> Traffic:
        """Counts requests and reports errors."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Counts what the service does."""
        ...

    @property
    def forward(self) -> Forward | None:
        """Answers the requests that may need the model; ``None`` if the routes do."""
        ...

    @property
    def devices(self) -> Sequence[str]:
        """The devices, if there are several."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the service."""
        ...

    @property
    def ended(self) -> Future[None]:
        """Done when the service has ended by itself."""
        ...

    @property
    def state(self) -> str:
        """``ok``, or why no new requests should be sent here."""
        ...


class Forwarding:
    """ASGI middleware that lets the service answer each POST, if it does that elsewhere.

    Args:
        app: The routes.
        forward: Answers a request.
    """

    def __init__(self, app: ASGIApp, forward: Forward) -> None:
        self._app, self._forward = app, forward

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        is_forwarded = scope["type"] == "http" and scope["method"] == "POST"
        await (self._forward if is_forwarded else self._app)(scope, receive, send)
