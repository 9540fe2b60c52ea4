"""``GET /metrics``, and what counts requests."""

from __future__ import annotations

from time import perf_counter

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runners.serve.metrics import Metrics

router = APIRouter(tags=["health"])

_CLIENT_LEFT = 499
_UNKNOWN = "none"  # the paths that clients try are not limited, so they are one label


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    content: Metrics = request.app.state.service.metrics
    return Response(content.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


class CountRequests:
    """ASGI middleware that counts every request by the template of its route.

    Args:
        app: The application.
        metrics: Counts them.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, is_counted = perf_counter(), _CLIENT_LEFT, False

        def count() -> None:
            nonlocal is_counted
            if not is_counted:
                is_counted = True
                # a path that is answered, such as /openapi.json, is a route without a template
                known: str = scope["path"] if status < 400 else _UNKNOWN
                route: str = getattr(scope.get("route"), "path", known)
                self._metrics.count_request(route, status, perf_counter() - started)

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body"):
                count()  # before the client has the answer, so that it finds it counted
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            count()
