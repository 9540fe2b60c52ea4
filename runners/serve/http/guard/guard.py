"""The outermost layer of the application: every request passes it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Collection
from contextlib import suppress

from fastapi import Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.errors import AssetError
from runners.serve.errors import RequestError
from runners.serve.http.guard.access import OPEN, Access
from runners.serve.http.guard.exchange import Exchange
from runners.serve.http.serving import Serving
from runners.serve.options import ServeOptions


class Guard:
    """Checks access and limits, cancels the work of clients that are gone, answers errors.

    Args:
        app: The routes.
        service: The model.
        options: The runner's options.
        open_paths: Paths that need no token.
    """

    def __init__(
        self, app: ASGIApp, service: Serving, options: ServeOptions, open_paths: Collection[str]
    ) -> None:
        self._app, self._service, self._options = app, service, options
        self._access = Access(options, open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":  # pragma: no cover - neither WebSockets nor lifespan events
            return
        service = self._service
        exchange = Exchange(
            receive, send, Headers(scope=scope), self._options, lambda: service.is_draining
        )
        try:
            self._access.check(scope["path"], scope["headers"])
            exchange.check_length()
            await self._answer(scope, exchange)
        except ClientDisconnect:
            pass
        except Exception as exc:
            if exchange.status:  # the connection is all that can still be closed
                raise
            with suppress(ClientDisconnect):
                await error_response(exc, service)(scope, exchange.receive, exchange.send)
        finally:
            if scope["path"] not in OPEN:  # monitors ask all the time
                service.traffic.count(exchange.status)

    async def _answer(self, scope: Scope, exchange: Exchange) -> None:
        """Run the route, as long as the client is there."""
        route = asyncio.ensure_future(self._app(scope, exchange.receive, exchange.send))
        gone = asyncio.ensure_future(exchange.disconnected())
        try:
            await asyncio.wait((route, gone), return_when=asyncio.FIRST_COMPLETED)
            if not route.done():
                route.cancel()
                with suppress(asyncio.CancelledError):
                    await route
                raise ClientDisconnect
            await route
        finally:
            gone.cancel()
            route.cancel()


def error_response(exc: Exception, service: Serving) -> Response:
    """Return the answer to a request that failed: ``{"error": "one sentence"}``.

    Args:
        exc: The error.
        service: Reports errors that nobody expected.
    """
    if isinstance(exc, RequestError):
        return JSONResponse({"error": str(exc)}, exc.status, exc.headers)
    if isinstance(exc, AssetError):
        # the image is what failed, whatever the step: the client can only send another one
        return JSONResponse({"asset": exc.asset_id, "error": str(exc), "step": exc.step}, 422)
    if isinstance(exc, HTTPException):
        return JSONResponse({"error": str(exc.detail)}, exc.status_code, exc.headers)
    # without the message, which may quote what a client sent
    frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(exc.__traceback__)]
    service.traffic.report(f"unexpected {type(exc).__name__} at {' < '.join(reversed(frames))}")
    return JSONResponse(
        {"error": "the service has failed on this request; its log says where"}, 500
    )
