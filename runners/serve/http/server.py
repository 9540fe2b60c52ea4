"""Runs the HTTP application on a thread of its own."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from threading import Thread
from typing import Any

from pipeline.errors import PipelineError
from runners.serve.http.app import create_app
from runners.serve.http.guard.connections import DrainingServer
from runners.serve.http.serving import Serving
from runners.serve.listening import Listening
from runners.serve.options import ServeOptions


class HttpServer:
    """Serves a ``Service`` over HTTP; entering starts to accept connections.

    Args:
        service: The model.
        options: The runner's options.
        listening: The socket.

    Attributes:
        ended: Done when no more requests are answered; has the error if that was not requested.
    """

    def __init__(self, service: Serving, options: ServeOptions, listening: Listening) -> None:
        for name in ("uvicorn", "python_multipart"):  # they quote what clients send
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self.ended: Future[None] = Future()
        self._listening = listening
        self._server = DrainingServer(
            create_app(service, options),
            timeout_s=options.timeout_s,
            is_inherited=listening.is_inherited,
        )
        # on another thread, uvicorn leaves the signals to us, so the exit status is ours too
        self._thread = Thread(target=self._work, name="http", daemon=True)

    def __enter__(self) -> HttpServer:
        """Start to accept connections.

        Raises:
            PipelineError: The server does not start.
        """
        self._thread.start()
        self.ended.add_done_callback(lambda _: self._server.is_listening.set())
        self._server.is_listening.wait()
        if self.ended.done():
            self.ended.result()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        """Stop, without waiting for requests if the block raised."""
        self._server.force_exit = exc_info[0] is not None
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Answer what has arrived, and end; ``ended`` is set then."""
        self._server.should_exit = True

    def _work(self) -> None:
        try:
            self._server.run(sockets=[self._listening.socket])
            if not self._server.should_exit:
                raise RuntimeError("it stopped by itself")
        except BaseException as exc:
            error = PipelineError(f"the HTTP server failed: {type(exc).__name__}: {exc}")
            error.__cause__ = exc
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)
