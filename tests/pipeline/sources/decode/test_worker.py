"""What a worker process may answer: nothing that it sends is believed before it is looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import DecodeError, PoisonError
from pipeline.sources.decode.reading import Reading
from pipeline.sources.decode.workers import DecodeWorkers


def read(workers: DecodeWorkers) -> Reading:
    return workers(Path("x"), exif=True, max_pixels=10_000)


LIAR = """
import json, socket, struct, sys
connection = socket.socket(fileno=int(sys.argv[2]))
def say(message):
    if isinstance(message, str):
        return connection.sendall(bytes.fromhex(message))
    data = json.dumps(message).encode()
    connection.sendall(struct.pack("!I", len(data)) + data)
say({})
connection.recv(1 << 20)
for message in json.loads(sys.argv[1]):
    say(message)
"""
READ = {"version": [3, 5, "0" * 64]}
PIXELS = bytes(12).hex()


def liar(*messages: Any) -> DecodeWorkers:
    command = [sys.executable, "-c", LIAR, json.dumps(messages)]
    return DecodeWorkers(1, memory_mb=64, timeout_s=60, tries=1, command=command)


def test_what_an_honest_answer_is() -> None:
    with liar(READ, {"size": [2, 2]}, PIXELS) as workers:
        reading = read(workers)
    assert (reading.image.tolist(), reading.size_bytes) == (np.zeros((2, 2, 3)).tolist(), 3)
    assert (reading.mtime_ns, reading.sha256) == (5, "0" * 64)


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(["ff" * 100], id="garbage"),
        pytest.param(["80049563"], id="pickle"),
        pytest.param(["00000004" + b"[{]}".hex()], id="no-json"),
        pytest.param(["00000002" + b"[]".hex()], id="no-object"),
        pytest.param(["0000c350" + (b"[" * 50_000).hex()], id="deep"),
        pytest.param(["0000c350" + (b"9" * 50_000).hex()], id="long-number"),
        pytest.param(["00000001ff"], id="no-text"),
        pytest.param([{}], id="nothing"),
        pytest.param([READ, READ], id="twice"),
        pytest.param([{"size": [2, 2]}, PIXELS], id="pixels-of-no-file"),
        pytest.param([{"version": [-1, 5, "0" * 64]}], id="size-negative"),
        pytest.param([{"version": [3, 1 << 63, "0" * 64]}], id="mtime-large"),
        pytest.param([{"version": [3, 5.0, "0" * 64]}], id="mtime-float"),
        pytest.param([{"version": [3, 5, "\x1b" * 64]}], id="digest"),
        pytest.param([{"version": [3, 5]}], id="version-short"),
        pytest.param([READ, {"size": [101, 100]}, PIXELS], id="over-the-limit"),
        pytest.param([READ, {"size": [1 << 40, 1 << 40]}], id="huge"),
        pytest.param([READ, {"size": [-2, -2]}, PIXELS], id="negative"),
        pytest.param([READ, {"size": [0, 4]}], id="empty"),
        pytest.param([READ, {"size": [2.0, 2]}, PIXELS], id="float"),
        pytest.param([READ, {"size": [True, 4]}, PIXELS], id="bool"),
        pytest.param([READ, {"size": [2, 2, 3]}, PIXELS], id="three"),
        pytest.param([{"error": ["x"], "attempts": 1}], id="error-no-text"),
        pytest.param([{"error": "x", "attempts": 0}], id="error-attempts"),
        pytest.param([{"error": "x"}], id="error-short"),
    ],
)
def test_an_answer_that_cannot_be(messages: list[Any]) -> None:
    with (
        liar(*messages) as workers,
        pytest.raises(PoisonError, match=r"^its decoder sent an invalid answer$"),
    ):
        read(workers)


@pytest.mark.parametrize("messages", [[], ["0000"], [READ], [READ, {"size": [2, 2]}, PIXELS[:-2]]])
def test_an_answer_that_ends_early(messages: list[Any]) -> None:
    with (
        liar(*messages) as workers,
        pytest.raises(PoisonError, match=r"^its decoder ended with status 0$"),
    ):
        read(workers)


def test_an_error_of_any_length_is_cut() -> None:
    answer = {"error": "x" * 50_000, "attempts": 2}
    with liar(answer) as workers, pytest.raises(DecodeError) as caught:
        read(workers)
    assert (len(str(caught.value)), caught.value.attempts) == (1000, 2)
    assert not isinstance(caught.value, PoisonError)
