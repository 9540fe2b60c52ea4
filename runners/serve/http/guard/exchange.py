"""One request and its answer, with limits on what is received."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Send

from runners.serve.errors import RequestError
from runners.serve.options import ServeOptions

_DISCARD_S = 5.0  # for the rest of a body that is not needed


class Exchange:
    """Passes messages between the server and a route.

    A body may be refused before it has arrived. Closing the connection at once would destroy the
    answer on its way to a client that is still sending, so the rest is received and discarded for
    up to five seconds.

    Args:
        receive: Returns the next message of the client.
        send: Sends a message to the client.
        headers: The headers of the request.
        options: The runner's options.

    Attributes:
        status: The status of the answer; 0 until it is sent.
        is_closing: Whether the connection is closed after the answer.
    """

    def __init__(
        self, receive: Receive, send: Send, headers: Headers, options: ServeOptions
    ) -> None:
        self._receive, self._send, self._options = receive, send, options
        self._announced = headers.get("content-length", "")
        self._max_bytes = int(options.max_body_mb * 1e6)
        self._n_bytes = 0
        self._deadline_s = monotonic() + options.timeout_s
        self._received = asyncio.Event()
        self.status = 0
        self.is_closing = False

    def check_length(self) -> None:
        """Refuse a body whose announced length is over the limit.

        Raises:
            RequestError: It is.
        """
        if self._announced.isdecimal() and int(self._announced) > self._max_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """Return the next message; after the body, wait until the client disconnects.

        Raises:
            RequestError: The body is too large, or arrives too slowly.
        """
        if self._received.is_set():
            await asyncio.Future()  # ``disconnected`` cancels the route
        left_s = self._deadline_s - monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(left_s, 0))
        except asyncio.TimeoutError:
            self._deadline_s = 0  # nothing more is expected of this client
            limit = f"runner.timeout_s={self._options.timeout_s:g}"
            raise RequestError(408, f"the request took longer than {limit} seconds") from None
        self._n_bytes += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._received.set()
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
            if self.is_closing or not await self._is_received():
                self.is_closing = True
                MutableHeaders(scope=message)["Connection"] = "close"
        elif not message.get("more_body", False) and not self._received.is_set():
            await self._send({**message, "more_body": True})
            await self._discard()
            message = {"type": "http.response.body"}
        await self._send(message)

    async def _is_received(self) -> bool:
        """Return whether there is no more of the body; a request may have none."""
        with suppress(RequestError):
            while not self._received.is_set() and not self._expects_body():
                await self.receive()
        return self._received.is_set()

    async def _discard(self) -> None:
        with suppress(RequestError):
            self._deadline_s = min(self._deadline_s, monotonic() + _DISCARD_S)
            while not self._received.is_set():
                self._n_bytes = 0
                await self.receive()

    def _too_large(self) -> RequestError:
        limit = f"runner.max_body_mb={self._options.max_body_mb:g}"
        return RequestError(413, f"the body is larger than {limit} megabytes")
