"""One request and its answer, with limits on what is received."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Send

from runners.serve.errors import RequestError
from runners.serve.options import ServeOptions

_DISCARD_S = 5.0


class Exchange:
    """Passes messages between the server and a route.

    A request may be refused before its body has arrived. Closing the connection at once could
    destroy the answer on its way to a client that is still sending, so the rest of the body is
    received and discarded, for up to five seconds.

    Args:
        receive: Returns the next message of the client.
        send: Sends a message to the client.
        headers: The headers of the request.
        options: The runner's options.
        is_draining: Returns whether connections are closed after their current request.

    Attributes:
        status: The status of the answer; 0 until it is sent.
    """

    def __init__(
        self,
        receive: Receive,
        send: Send,
        headers: Headers,
        options: ServeOptions,
        is_draining: Callable[[], bool],
    ) -> None:
        self._receive, self._send = receive, send
        self._options, self._is_draining = options, is_draining
        self._length = headers.get("content-length", "0")
        self._waits = headers.get("expect", "").lower() == "100-continue"
        self._is_empty = "transfer-encoding" not in headers and self._length == "0"
        self._received = asyncio.Event()
        if self._is_empty:
            self._received.set()
        self._n_bytes = 0
        self._max_bytes = int(options.max_body_mb * 1e6)
        self._deadline_s = monotonic() + options.timeout_s
        self.status = 0

    def check_length(self) -> None:
        """Refuse a body whose announced length is over the limit.

        Raises:
            RequestError: It is.
        """
        if int(self._length) > self._max_bytes:  # the server accepts up to 20 digits
            raise self._too_large()

    async def receive(self) -> Message:
        """Return the next message of the body.

        Raises:
            RequestError: The body is too large, or arrives too slowly.
        """
        if self._is_empty:
            self._is_empty = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._received.is_set():  # the caller waits for a disconnect, which cancels it
            await asyncio.Future()
        message = await self._next()
        self._n_bytes += len(message.get("body", b""))
        if self._n_bytes > self._max_bytes:
            raise self._too_large()
        return message

    async def disconnected(self) -> None:
        """Wait until the body has been received and the client has closed the connection."""
        await self._received.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, message: Message) -> None:
        """Send a message of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._is_draining() or not self._received.is_set():
                MutableHeaders(scope=message)["Connection"] = "close"
        elif not message.get("more_body", False) and not self._received.is_set():
            await self._send({**message, "more_body": True})
            await self._discard()
            message = {"type": "http.response.body"}
        await self._send(message)

    async def _next(self) -> Message:
        self._waits = False
        try:
            left_s = self._deadline_s - monotonic()
            message = await asyncio.wait_for(self._receive(), max(left_s, 0))
        except asyncio.TimeoutError:
            self._deadline_s = 0  # nothing more is expected of this client
            limit = f"runner.timeout_s={self._options.timeout_s:g}"
            raise RequestError(408, f"the request took longer than {limit} seconds") from None
        if not message.get("more_body", False):
            self._received.set()
        return message

    async def _discard(self) -> None:
        self._deadline_s = min(self._deadline_s, monotonic() + _DISCARD_S)
        with suppress(RequestError):
            while not (self._received.is_set() or self._waits):
                await self._next()

    def _too_large(self) -> RequestError:
        limit = f"runner.max_body_mb={self._options.max_body_mb:g}"
        return RequestError(413, f"the body is larger than {limit} megabytes")
