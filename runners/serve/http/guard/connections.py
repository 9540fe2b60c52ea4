"""Connections of clients: their number, time limits, and how they end when the service stops."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from ctypes import addressof, create_string_buffer
from threading import Event
from time import monotonic
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_MAX_CONNECTIONS = 400  # each may need a second file: Linux allows 1024 by default
_KEEP_ALIVE_S = 75  # longer than the idle time of common proxies, which then close first
_LINGER_S = 1.0  # how long a stopping service waits for requests on open connections
_TICK_S = 0.02
_REASONS = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}


class Connection(H11Protocol):
    """A connection, with a time limit for the head of each request; answers in JSON.

    The limits of a request's body are those of ``Exchange``.
    """

    timeout_s = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, unless there are too many."""
        self._is_refused = False
        super().connection_made(transport)
        self._idle_since_s = monotonic()
        self._head_timer = self.loop.call_later(self.timeout_s, self._give_up)
        if len(self.connections) > _MAX_CONNECTIONS:
            self._refuse(503, "too many connections; try again later")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._head_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process what the client sent."""
        if not self._is_refused:
            super().data_received(data)
            self._time_head()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._idle_since_s = monotonic()
        super().on_response_complete()
        self._time_head()

    @property
    def idle_since_s(self) -> float | None:
        """Since when there is no request on this connection; ``None`` if there is one."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return self._idle_since_s if is_answered and not self._has_data else None

    @property
    def _has_data(self) -> bool:
        return bool(self.conn.trailing_data[0])

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP."""
        self._refuse(400, "this is not a valid HTTP request, or its headers are too long")

    def _time_head(self) -> None:
        """Start or stop the clock for the head of a request."""
        is_awaited = self.conn.their_state is h11.IDLE and (self._has_data or self.cycle is None)
        if not is_awaited:
            self._head_timer.cancel()
        elif self._head_timer.cancelled():
            self._head_timer = self.loop.call_later(self.timeout_s, self._give_up)

    def _give_up(self) -> None:
        limit = f"runner.timeout_s={self.timeout_s:g}"
        self._refuse(408, f"the request took longer than {limit} seconds")

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close the connection; the answer is not that of a route.

        What the client still sends is discarded for a moment: see ``Exchange``.
        """
        self._is_refused = True
        self._head_timer.cancel()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": message})
            retry = "Retry-After: 1\r\n" if status == 503 else ""
            head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n\r\n"
            self.transport.write((head + body).encode())
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)


class DrainingServer(uvicorn.Server):
    """A server that answers everything that has reached it before it ends.

    Args:
        app: The application.
        timeout_s: Seconds that a client may take to send a request, or to receive its answer.
        is_inherited: Whether the socket is another process's too, such as systemd's: connections
            that wait in it are left for the next process.

    Attributes:
        is_listening: Set when connections are accepted.
    """

    def __init__(self, app: Any, *, timeout_s: float, is_inherited: bool) -> None:
        protocol = type("Connection", (Connection,), {"timeout_s": timeout_s})
        config = uvicorn.Config(
            app,
            http=protocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        super().__init__(config)
        self._timeout_s, self._is_inherited = timeout_s, is_inherited
        self.is_listening = Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets)
        self.is_listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for open connections for a moment, close the socket, and answer what has arrived."""
        started_s = monotonic()
        while self._connections() and monotonic() < started_s + _LINGER_S and not self.force_exit:
            await asyncio.sleep(_TICK_S)
        if not self._is_inherited:
            for listening in sockets or ():
                refuse_new(listening)
            await asyncio.sleep(_TICK_S)  # accepts those that wait
        for server in self.servers:
            server.close()
        answered_s = monotonic()
        while (connections := self._connections()) and not self.force_exit:
            for connection in connections:
                idle_s = connection.idle_since_s
                if idle_s is not None and monotonic() > max(idle_s, started_s) + _LINGER_S:
                    connection.transport.close()
            if self.server_state.tasks:
                answered_s = monotonic()
            elif monotonic() > answered_s + self._timeout_s:  # clients do not receive their answers
                break
            await asyncio.sleep(_TICK_S)
        for connection in self._connections():
            connection.transport.abort()
        self.force_exit = True  # there is nothing left to wait for
        await super().shutdown(sockets)

    def _connections(self) -> list[Connection]:
        return [each for each in self.server_state.connections if isinstance(each, Connection)]


def refuse_new(listening: socket.socket) -> None:
    """Ignore new connections, but keep those that wait to be accepted (Linux).

    Closing a socket resets the connections that wait in it. So new ones are stopped first, by a
    filter that drops all packets. Their clients try again, and reach the next process.
    """
    option = getattr(socket, "SO_ATTACH_FILTER", 26)
    program = create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # return 0
    filtering = struct.pack("@HP", 1, addressof(program))
    try:
        listening.setsockopt(socket.SOL_SOCKET, option, filtering)
    except OSError:  # another system
        return
