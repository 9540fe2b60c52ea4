"""A service in this process, on a free port, with the fake model, and with faults."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from command_line import ROOT
from hydra import compose, initialize_config_dir

from pipeline.config.build import build_job
from pipeline.job import Job
from runners.serve.http.server import HttpServer
from runners.serve.listening import listen
from runners.serve.runner import Serve
from runners.serve.service import Service

IN_THIS_PROCESS = "decode.isolation=none"


def image_file(height: int = 12, width: int = 16) -> bytes:
    """An image file, the same for the same size."""
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def form(*files: tuple[str, bytes], boundary: str = "x") -> tuple[bytes, dict[str, str]]:
    """The body of a form with these files, and its header."""
    head = '--{}\r\nContent-Disposition: form-data; name="image"; filename="{}"\r\n\r\n'
    parts = [head.format(boundary, name).encode() + data + b"\r\n" for name, data in files]
    header = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), header


class Gate:
    """A model that waits at each forward until ``opened`` is set; it reports ``reached``."""

    def __init__(self, runnable: Any) -> None:
        self._runnable = runnable
        self.opened, self.reached = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runnable, name)

    def __enter__(self) -> Gate:
        self._runnable.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runnable.__exit__(*exc_info)

    def predict(self, frames: Any) -> Any:
        self.reached.set()
        assert self.opened.wait(60)
        if self.error is not None:
            raise self.error
        return self._runnable.predict(frames)


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


@dataclass
class Served:
    """A running service.

    Attributes:
        service: The model.
        http: The server.
        port: Its port.
        gates: Each holds the model of a device, if it is closed.
    """

    service: Service
    http: HttpServer
    port: int
    gates: list[Gate]

    @property
    def gate(self) -> Gate:
        """That of the first device."""
        return self.gates[0]

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}), **options)
            response = connection.getresponse()
            sent = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, sent, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Response:
        return self.send("GET", path)

    def post(
        self, path: str, body: Any = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        return self.send("POST", path, body, headers)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> tuple[int, Any, dict[str, str]]:
        """Send a request; return status, decoded body and headers (in lower case)."""
        sent = self.send(method, path, body, headers, **options)
        is_json = sent.headers.get("content-type", "").startswith("application/json")
        data = sent.json if is_json and b"\n{" not in sent.body else sent.body
        return sent.status, data, sent.headers

    def predict(self, body: Any, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        status, answer, _ = self.request("POST", "/predict", body, headers)
        return status, answer

    def raw(self, data: bytes) -> bytes:
        """Send bytes; return all that is answered until the connection is closed."""
        with self.connect() as connection:
            connection.sendall(data)
            return received(connection)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def received(connection: socket.socket) -> bytes:
    """Return what arrives until the connection is closed."""
    data = b""
    while chunk := connection.recv(1 << 16):
        data += chunk
    return data


def served_job(*arguments: str) -> Job:
    """Return the job of a service, with the arguments of a command line."""
    given = ["model=mask_rcnn", "runnable=fake", "runner=serve", "runner.port=0", "quiet=true"]
    given += ["output=unused"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return build_job(compose("config", [*given, IN_THIS_PROCESS, *arguments]))


@contextmanager
def served(*arguments: str) -> Iterator[Served]:
    """Run a service while the block runs, with the arguments of a command line."""
    job = served_job(*arguments)
    runner = job.runner
    assert isinstance(runner, Serve)
    replicas = runner.jobs(job)
    gates = [Gate(each.runnable) for each in replicas]
    for gate in gates:
        gate.opened.set()
    job, *others = (replace(j, runnable=gate) for j, gate in zip(replicas, gates, strict=True))
    listening = listen(runner)
    with (
        listening.socket,
        ExitStack() as stack,
        Service(job, runner, runner.load(job, stack, others), others) as service,
    ):
        port = listening.socket.getsockname()[1]
        with HttpServer(service, runner, listening) as http_server:
            try:
                yield Served(service, http_server, port, gates)
            finally:
                for gate in gates:
                    gate.opened.set()
