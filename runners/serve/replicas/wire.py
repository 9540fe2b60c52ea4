"""Requests and answers as values, which processes can send to one another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Scope

Headers = Sequence[tuple[bytes, bytes]]
Notes = Sequence[tuple[str, tuple[Any, ...]]]

_SENT = ("method", "path", "raw_path", "query_string", "headers", "client", "server")


@dataclass(frozen=True, slots=True)
class Call:
    """A request.

    Attributes:
        scope: The parts of its ASGI scope that can be sent.
        body: Its body.
    """

    scope: dict[str, Any]
    body: bytes

    @classmethod
    def of(cls, scope: Scope, body: bytes) -> Call:
        """Return the request of a scope."""
        return cls({name: scope.get(name) for name in _SENT}, body)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request.

    Attributes:
        status: The HTTP status.
        headers: Its headers.
        body: Its body.
        route: Template of the path, such as ``/v2/models/{name}/infer``; ``None`` if it has none.
        notes: What the replica has noted since its previous answer; see ``Journal``.
    """

    status: int
    headers: Headers
    body: bytes
    route: str | None
    notes: Notes = ()


async def reply_of(app: ASGIApp, call: Call) -> Reply:
    """Return the answer of an application to a request."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        **call.scope,
    }
    status, headers, parts = 500, [], list[bytes]()
    is_received = False

    async def receive() -> Message:
        nonlocal is_received
        if is_received:
            await asyncio.Future()  # a client that leaves cancels the whole call
        is_received = True
        return {"type": "http.request", "body": call.body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    sent = [(name, value) for name, value in headers if name.lower() != b"connection"]
    return Reply(status, sent, b"".join(parts), getattr(scope.get("route"), "path", None))
