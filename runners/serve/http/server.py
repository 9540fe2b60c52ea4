"""Runs the HTTP application on a thread of its own."""

from __future__ import annotations

import socket
from threading import Thread
from typing import Any

import uvicorn

from runners.serve.http.app import create_app
from runners.serve.options import ServeOptions
from runners.serve.service import Service


class HttpServer:
    """Serves a ``Service`` over HTTP; entering starts to accept connections.

    Args:
        service: The model.
        options: The runner's options.
        listening: The bound socket.

    Attributes:
        url: Address of the service.
    """

    def __init__(self, service: Service, options: ServeOptions, listening: socket.socket) -> None:
        host, port = listening.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        config = uvicorn.Config(
            create_app(service, options),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        # on another thread, uvicorn leaves the signals to us, so the exit status is ours too
        self._thread = Thread(
            target=self._server.run, args=([listening],), name="http", daemon=True
        )

    def __enter__(self) -> HttpServer:
        """Start to accept connections."""
        self._thread.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        """Stop, without waiting for requests if the block raised."""
        self._server.force_exit = exc_info[0] is not None
        self.drain()

    def drain(self) -> None:
        """Stop to accept connections, and wait until every request is answered."""
        self._server.should_exit = True
        self._thread.join()
