"""``runner=serve``: answers requests over HTTP until stopped."""

from __future__ import annotations

import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from pipeline.errors import ConfigError
from pipeline.job import Job, Report
from pipeline.protocols import Warns
from pipeline.system.terminal import print_stderr
from runners.reporting.progress import announce_loading
from runners.serve.options import ServeOptions
from runners.serve.service import Limits, Service

_EXTRA = ("fastapi", "fastapi_swagger", "multipart", "uvicorn")


@dataclass(frozen=True)
class Serve(ServeOptions):
    """Answers requests with the model and stages of the job, until SIGTERM or SIGINT."""

    def run(self, job: Job) -> Report:
        """Serve; ends with status 0 after SIGTERM, when every accepted request is answered.

        Raises:
            ConfigError: The extra is not installed, the address is not available, or the device
                does not exist; nothing was started.
            StoreError: The weights are unavailable or do not fit the model.
            DeviceLostError: The device failed; the service has ended.
        """
        self._check_extra()
        from runners.serve.http.server import HttpServer

        with self._socket() as listening:
            announce_loading(job)
            with ExitStack() as stack:
                with warnings.catch_warnings():  # Detectron2 uses what torch has deprecated
                    warnings.simplefilter("ignore", FutureWarning)
                    stack.enter_context(job.runnable)
                for part in (job.model, job.runnable):
                    for text in part.warnings if isinstance(part, Warns) else ():
                        print_stderr(f"warning: {text}")
                limits = Limits(self.max_queue, self.max_wait_ms / 1000)
                service = stack.enter_context(Service(job, limits))
                http = stack.enter_context(HttpServer(service, self, listening))
                if not job.config["quiet"]:
                    print_stderr(f"serving {http.url} (stop with Ctrl-C)")
                status = self._wait(service)
                service.is_draining = True
                http.drain()
        if service.failure is not None:
            raise service.failure
        return Report(status)

    def _wait(self, service: Service) -> int:
        """Wait for a signal or the end of the engine; return the exit status."""
        with _signals() as received:
            service.ended.add_done_callback(lambda _: received.set())
            received.wait()
            return 130 if received.number == signal.SIGINT else 0

    def _socket(self) -> socket.socket:
        try:
            return socket.create_server((self.host, self.port), backlog=1024)
        except OSError as exc:
            raise ConfigError(
                f"cannot listen on runner.host={self.host}, runner.port={self.port}: {exc.strerror}"
            ) from exc

    def _check_extra(self) -> None:
        from importlib.util import find_spec

        if missing := [name for name in _EXTRA if find_spec(name) is None]:
            raise ConfigError(
                f"runner=serve needs {', '.join(missing)}: install the extra with "
                "`uv sync --extra serve` or `pip install 'd2run[serve]'`"
            )


class _Received(threading.Event):
    """Is set by a signal, and knows which."""

    number: int = 0


@contextmanager
def _signals() -> Iterator[_Received]:
    """Turn the first SIGTERM or SIGINT into an event; the second one ends the process."""
    received = _Received()

    def stop(number: int, frame: FrameType | None) -> None:
        if received.number:
            import os

            os._exit(128 + number)
        received.number = number
        received.set()

    with suppress(ValueError):  # only the main thread may set handlers
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
    yield received
