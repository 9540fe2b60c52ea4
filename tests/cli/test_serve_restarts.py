"""Requests of all kinds while the service is terminated and killed, again and again."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import command, environment
from served import form, image_file

SIZES = tuple((height, width) for height in (12, 40, 90) for width in (16, 60, 200))
CLIENTS = 8


class Restarted:
    """A service that is ended and started again while clients send requests.

    Attributes:
        is_killed: Whether the current process is ended by SIGKILL: answers may be lost then.
        statuses: The exit status of each process.
        memory_kb: The largest resident memory of each process.
    """

    def __init__(self, folder: Path, arguments: tuple[str, ...]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._folder = folder
        self._command = command(*arguments, f"runner.port={self.port}")
        self.statuses: list[int] = []
        self.memory_kb: list[int] = []
        self.generation = 0
        self.killed: set[int] = set()  # generations
        self.stderr = folder / "stderr.txt"

    def start(self) -> None:
        with self.stderr.open("a") as stderr:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stderr=stderr, env=environment(self._folder)
            )
        while True:
            assert self._process.poll() is None, self.stderr.read_text()
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
                break
            time.sleep(0.02)
        self.generation += 1

    def end(self, number: int) -> None:
        if number == signal.SIGKILL:
            self.killed.add(self.generation)
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        self.memory_kb.append(int(status.partition("VmRSS:")[2].split()[0]))
        self._process.send_signal(number)
        self.statuses.append(self._process.wait(60))

    def abandon(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def connected(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()  # raises ConnectionRefusedError: not accepted
    try:
        yield connection
    finally:
        connection.close()


def exchange(connection: http.client.HTTPConnection, body: Any, headers: Any) -> tuple[int, bytes]:
    connection.request("POST", "/predict", body, headers)
    response = connection.getresponse()
    return response.status, response.read()


def lines(answer: bytes) -> list[Any]:
    return [json.loads(line) for line in answer.splitlines()]


def one_request(kind: str, port: int, expected: dict[Any, Any], chance: random.Random) -> None:
    """Send a request of a kind and check its answer; OSError: it was not accepted, or is lost."""
    size = chance.choice(SIZES)
    with connected(port) as connection:
        if kind == "good":
            for _ in range(chance.choice((1, 3))):  # on one connection
                status, answer = exchange(connection, image_file(*size), {})
                if status == 200:
                    assert lines(answer)[0]["instances"] == expected[size]
                else:
                    assert status == 429
                if connection.sock is None:  # Connection: close
                    break
        elif kind == "several":
            others = [size, chance.choice(SIZES)]
            files = [(f"{i}.png", image_file(*each)) for i, each in enumerate(others)]
            status, answer = exchange(connection, *form(*files, ("x.png", b"broken")))
            if status == 200:
                found = lines(answer)
                assert [line["asset"] for line in found] == ["0.png", "1.png", "x.png"]
                assert [line["instances"] for line in found[:2]] == [expected[s] for s in others]
                assert "error" in found[2]
            else:
                assert status == 429
        elif kind == "broken":
            whole = image_file(*size)
            assert exchange(connection, whole[: len(whole) // 2], {})[0] in (422, 429)
        elif kind == "huge":
            assert exchange(connection, b"x" * 3_000_000, {})[0] == 413
        elif kind == "slow":
            body = image_file(*size)
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            for start in range(0, len(body), len(body) // 5 + 1):
                connection.send(body[start : start + len(body) // 5 + 1])
                time.sleep(0.05)
            response = connection.getresponse()
            assert response.status in (200, 429)
            if response.status == 200:
                assert json.load(response)["instances"] == expected[size]
        else:  # cut off
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Length", "1000000")
            connection.endheaders()
            connection.send(b"x" * chance.randrange(1000))


def shaken(
    folder: Path, arguments: tuple[str, ...], n_requests: int, n_terminated: int, n_killed: int
) -> tuple[Counter[str], Restarted]:
    """Send requests while the service is restarted; return the outcomes."""
    restarted = Restarted(folder, arguments)
    restarted.start()
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()
    try:
        expected = {}
        with connected(restarted.port) as connection:
            for size in SIZES:
                expected[size] = lines(exchange(connection, image_file(*size), {})[1])[0][
                    "instances"
                ]
        kinds = ["good"] * 5 + ["several", "broken", "huge", "slow", "cut off"]
        done = threading.Semaphore(0)

        def ask(number: int) -> None:
            chance = random.Random(number)
            kind = kinds[number % len(kinds)]
            while True:
                generation = restarted.generation
                try:
                    one_request(kind, restarted.port, expected, chance)
                    outcome = "answered"
                except ConnectionRefusedError:  # not accepted: try again, as a client would
                    time.sleep(0.05)
                    continue
                except (OSError, http.client.HTTPException) as exc:
                    # between reading the generation and connecting, another may have started
                    near = {generation, generation + 1} & restarted.killed
                    outcome = "lost with a killed process" if near else f"lost: {exc!r}"
                break
            with lock:
                outcomes[outcome] += 1
            done.release()

        ends = [signal.SIGTERM] * n_terminated + [signal.SIGKILL] * n_killed
        random.Random(0).shuffle(ends)
        with ThreadPoolExecutor(CLIENTS) as clients:
            asked = [clients.submit(ask, number) for number in range(n_requests)]
            for number in ends:
                for _ in range(n_requests // (len(ends) + 1)):
                    done.acquire()
                restarted.end(number)
                restarted.start()
            for each in asked:
                each.result()
        restarted.end(signal.SIGTERM)
    finally:
        restarted.abandon()
    return outcomes, restarted


def check(outcomes: Counter[str], restarted: Restarted, n_requests: int) -> None:
    figures = f"{dict(outcomes)}, statuses {restarted.statuses}, memory {restarted.memory_kb} kB"
    sys.stdout.write(f"{figures}\n")
    lost = {text: n for text, n in outcomes.items() if text.startswith("lost: ")}
    assert lost == {}
    assert outcomes.total() == n_requests
    assert {-signal.SIGKILL, 0} >= set(restarted.statuses)
    assert "error" not in restarted.stderr.read_text()


FAKE = ("runner=serve", "runnable=fake", "model=mask_rcnn", "runner.max_body_mb=1")


@pytest.mark.slow
def test_nothing_is_lost_in_two_restarts(tmp_path: Path) -> None:
    arguments = (*FAKE, "decode.isolation=none")
    outcomes, restarted = shaken(tmp_path, arguments, 120, n_terminated=2, n_killed=0)
    check(outcomes, restarted, 120)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_nothing_is_lost_in_many_restarts(tmp_path: Path) -> None:
    outcomes, restarted = shaken(tmp_path, FAKE, 1000, n_terminated=20, n_killed=5)
    check(outcomes, restarted, 1000)
    memory_kb = sorted(restarted.memory_kb)
    assert memory_kb[-1] < 1.3 * memory_kb[0]
