"""A service in this process, on a free port, without the runner's signals."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from threading import Thread
from typing import Any

import uvicorn
from batches import job_of

from pipeline.job import Job
from runners.serve.http.app import create_app
from runners.serve.service import Limits, Service

FAKE = ("runner=serve", "decode.isolation=none")


@dataclass(frozen=True)
class Response:
    """A response; ``headers`` have names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass(frozen=True)
class Serving:
    """A running service."""

    service: Service
    port: int

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, headers, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Response:
        return self.request("GET", path)

    def post(
        self, path: str, body: Any = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        return self.request("POST", path, body, headers)


@contextmanager
def serving(
    *arguments: str, runnable: Any = None, max_queue: int = 64, max_wait_s: float = 0.005
) -> Iterator[Serving]:
    """Serve a job, given as the arguments of a command line, while the block runs."""
    job: Job = job_of(*FAKE, *arguments)
    job = replace(job, runnable=runnable or job.runnable)
    with job.runnable, Service(job, Limits(max_queue, max_wait_s)) as service:
        app = create_app(service, job.runner)  # type: ignore[arg-type]
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
            thread = Thread(target=server.run, args=([listening],), daemon=True)
            thread.start()
            try:
                yield Serving(service, listening.getsockname()[1])
            finally:
                server.should_exit = True
                thread.join()
