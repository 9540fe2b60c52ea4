"""A local HTTP server that receives what ``sink=webhook`` posts, and answers as it is told."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


@dataclass
class Post:
    path: str
    headers: dict[str, str]
    body: bytes
    status: int | None = None  # what was answered

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]


class Receiver:
    """Answers 200, after the ``answers`` that are set, each used once.

    A number is a status; ``close`` and ``reset`` end the connection, ``stall`` never answers, and
    ``hold`` answers 200 after ``release``.
    """

    def __init__(self, port: int = 0) -> None:
        self.posts: list[Post] = []
        self.answers: list[int | str] = []
        self.retry_after: str | None = None
        self.closes_idle = False
        self.release = Event()
        self._over = Event()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/results?team=1"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def receive(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        headers = {key.lower(): value for key, value in handler.headers.items()}
        answer = self.answers.pop(0) if self.answers else 200
        post = Post(handler.path, headers, body)
        self.posts.append(post)
        handler.close_connection = True
        if answer == "stall":
            self._over.wait()
        elif answer == "reset":
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif answer != "close":
            if answer == "hold":
                self.release.wait()
                answer = 200
            handler.close_connection = self.closes_idle
            handler.send_response(int(answer))
            handler.send_header("Content-Length", "2")
            handler.send_header("Location", "/elsewhere")
            if self.retry_after is not None:
                handler.send_header("Retry-After", self.retry_after)
            handler.end_headers()
            handler.wfile.write(b"ok")
            post.status = int(answer)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the clients of these tests are killed."""


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            receiver.receive(self)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
