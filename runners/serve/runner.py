"""``runner=serve``: answers requests over HTTP until stopped."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from types import FrameType

from pipeline.errors import ConfigError
from pipeline.job import Job, Report
from pipeline.protocols import Warns
from pipeline.system.terminal import print_stderr
from runners.reporting.progress import announce_loading
from runners.serve.listening import listen
from runners.serve.options import ServeOptions
from runners.serve.service import Limits, Service

_EXTRA = {
    "fastapi": "fastapi",
    "python_multipart": "python-multipart",
    "swagger_ui_bundle": "swagger-ui-bundle",
    "uvicorn": "uvicorn",
}
_REPORT_S = 60.0
_ENDED = 0  # instead of the number of a signal


@dataclass(frozen=True)
class Serve(ServeOptions):
    """Answers requests with the model and stages of the job, until SIGTERM or SIGINT."""

    def run(self, job: Job) -> Report:
        """Serve; ends with status 0 after SIGTERM, when every accepted request is answered.

        Raises:
            ConfigError: The extra is not installed, the address is not available, there is an
                input, or the device does not exist; nothing was started.
            StoreError: The weights are unavailable or do not fit the model.
            DeviceLostError: The device failed; the service has ended.
            PipelineError: The HTTP server failed.
        """
        _check_extra()
        if job.config["input"] is not None:
            raise ConfigError("input: runner=serve gets its images from requests; remove input")
        from runners.serve.http.server import HttpServer

        listening = listen(self)
        with listening.socket:
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
                stops = stack.enter_context(_signals())
                http = stack.enter_context(HttpServer(service, self, listening))
                for ended in (service.ended, http.ended):
                    ended.add_done_callback(lambda _: stops.put(_ENDED))
                if not job.config["quiet"]:
                    print_stderr(f"serving {listening.url} (stop with Ctrl-C)")
                number = self._wait(stops, service)
                service.is_draining = True
                http.drain()
                service.traffic.print_counts()
                http.ended.result()
        if service.failure is not None:
            raise service.failure
        return Report(130 if number == signal.SIGINT else 0)

    def _wait(self, stops: SimpleQueue[int], service: Service) -> int:
        """Return the number of the first signal, or 0 if the service has ended."""
        while True:
            try:
                return stops.get(timeout=_REPORT_S)
            except Empty:
                service.traffic.print_counts()


def _check_extra() -> None:
    if missing := [package for name, package in _EXTRA.items() if find_spec(name) is None]:
        raise ConfigError(
            f"runner=serve needs {', '.join(missing)}: install the extra with "
            "`uv sync --extra serve` or `pip install 'd2run[serve]'`"
        )


@contextmanager
def _signals() -> Iterator[SimpleQueue[int]]:
    """Put the number of the first SIGTERM or SIGINT into a queue; the second one ends the process.

    The queue's ``put`` is reentrant, so a handler may call it while the main thread waits for it.
    """
    stops: SimpleQueue[int] = SimpleQueue()
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        stops.put(number)

    if threading.current_thread() is not threading.main_thread():
        yield stops  # only the main thread may set handlers
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
