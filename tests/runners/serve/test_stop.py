"""How a service ends: what has reached it is answered, and the exit status says why it ended."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import ROOT, command, environment
from finished_run import write_run
from processes import wait_for
from served import image_file, received, served, served_job

from pipeline.errors import ConfigError
from runners.serve.http.guard import connections
from runners.serve.listening import listen
from runners.serve.options import ServeOptions

REQUEST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
FAKE = ("runner=serve", "runnable=fake", "model=mask_rcnn", "decode.isolation=none")


def test_everything_that_has_arrived_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LINGER_S", 0.3)
    body = image_file()
    whole = REQUEST % len(body) + body
    with served() as running:
        running.gate.opened.clear()
        busy, half, silent, idle = (running.connect() for _ in range(4))
        busy.sendall(whole)
        half.sendall(whole[:-10])
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        idle_answer = b""
        while not idle_answer.endswith(b"ok\n"):
            idle_answer += idle.recv(1000)
        assert running.gate.reached.wait(30)
        running.service.is_draining = True
        running.http.stop()
        status, answer, headers = running.request("GET", "/readyz")
        assert (status, answer, headers["connection"]) == (503, b"stopping\n", "close")
        silent.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"connection: close" in received(silent).lower()
        late = running.connect()  # the moment for new ones is not over
        late.sendall(whole)
        wait_for(lambda: running.service.in_flight == 2)
        assert received(idle) == b""  # closed after a moment
        half.sendall(whole[-10:])
        wait_for(lambda: running.service.in_flight == 3)
        assert not running.http.ended.done()
        running.gate.opened.set()
        for connection in (busy, half, late):
            answered = received(connection)
            assert answered.startswith(b"HTTP/1.1 200")
            assert answered.endswith(b"}\n")
        running.http.ended.result(30)
        for connection in (busy, half, silent, idle, late):
            connection.close()
        with pytest.raises(OSError, match="refused"):
            running.connect()


def test_connections_that_wait_to_be_accepted_are_not_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        waiting = socket.create_connection(listening.getsockname())
        connections.refuse_new(listening)
        with socket.socket() as late:
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):  # ignored: it tries again
                late.connect(listening.getsockname())
        accepted, _ = listening.accept()
        waiting.sendall(b"request")
        assert accepted.recv(10) == b"request"
        accepted.close()
        waiting.close()


def test_a_client_that_does_not_receive_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LINGER_S", 0.1)
    with served("runner.timeout_s=1") as running:
        running.http._listening.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        body = image_file(300, 400)
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(("127.0.0.1", running.port))
            stuck.sendall(REQUEST.replace(b"predict", b"overlay") % len(body) + body)
            assert stuck.recv(10) == b"HTTP/1.1 2"
            running.http.stop()
            running.http.ended.result(30)
            assert not received(stuck).endswith(b"\xff\xd9")  # the end of a JPEG


def test_an_address_that_is_not_available(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^cannot listen .* runner\.port={port}: Address"):
            listen(ServeOptions(port=port))
    with pytest.raises(ConfigError, match=r"^cannot listen on runner\.host=no\.such\.invalid"):
        listen(ServeOptions(host="no.such.invalid", public=True))


def test_the_socket_of_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    with listen(ServeOptions(port=0)).socket as own:  # it was another process's
        assert own.fileno() != 3
    assert "LISTEN_FDS" not in os.environ
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    with pytest.raises(ConfigError, match="systemd passed 2 sockets"):
        listen(ServeOptions())


def test_an_input_is_refused() -> None:
    job = served_job(f"input={ROOT / 'examples/shapes/scenes'}")
    with pytest.raises(ConfigError, match=r"^input: runner=serve gets its images from requests"):
        job.runner.run(job)


def test_an_output_is_refused() -> None:
    job = replace(served_job(), hydra_files={"overrides.yaml": ["device=cpu", "output=out"]})
    with pytest.raises(ConfigError, match=r"^output: runner=serve keeps results in runner\.record"):
        job.runner.run(job)


def test_a_replay_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    job = served_job("model=recorded", "runnable=replay", f"runnable.run={run}")
    with pytest.raises(ConfigError, match=r"^runnable=replay has no predictions for new images"):
        job.runner.run(job)


@contextmanager
def process(
    folder: Path, *arguments: str, inherited: int | None = None
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A service as a process, and its port; ``inherited``: a socket as systemd passes it."""
    line, options = command(*FAKE, *arguments), {}
    if inherited is not None:
        # exec keeps the process id, which LISTEN_PID has to be
        script = f'exec 3<&{inherited}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        line = ["bash", "-c", script, "bash", *line]
        options = {"pass_fds": [inherited]}
    with subprocess.Popen(
        line, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment(folder), **options
    ) as running:
        try:
            assert running.stderr is not None
            first = running.stderr.readline()
            assert first.startswith("serving http://127.0.0.1:"), first
            yield running, int(first.split(":")[2].partition("/")[0])
        finally:
            running.kill()


def answer(port: int, body: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            REQUEST.replace(b"\r\nHost", b"\r\nConnection: close\r\nHost") % len(body) + body
        )
        return received(connection)


def test_a_process_ends_with_its_status(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as systemds:
        port = systemds.getsockname()[1]
        with process(tmp_path, inherited=systemds.fileno()) as (running, served_port):
            assert served_port == port
            assert b"200 OK" in answer(port, image_file())
            running.send_signal(signal.SIGTERM)
            assert running.wait(30) == 0
            assert "1 request: 1 answered" in running.stderr.read()
        waiting = http.client.HTTPConnection("127.0.0.1", port)
        waiting.request("POST", "/predict", image_file())  # while nobody serves
        with process(tmp_path, inherited=systemds.fileno()) as (running, _):
            response = waiting.getresponse()
            assert (response.status, json.load(response)["asset"]) == (200, "image")
            running.send_signal(signal.SIGTERM)  # the open connection keeps it for a moment
            running.send_signal(signal.SIGINT)
            assert running.wait(30) - 128 in (signal.SIGTERM, signal.SIGINT)  # in any order
        waiting.close()


def test_mistakes_are_found_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            command(*FAKE, f"runner.port={port}"),
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: cannot listen on runner.host=127.0.0.1")
