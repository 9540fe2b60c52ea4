"""Two hundred malformed requests: none is answered with a 5xx, and the service works afterwards."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress

import pytest
from served import Served, form, image_file, served

NAMES = ("../../etc/passwd", "/etc/passwd", "..\\..\\x", "a\x00b", "\x1b[2J", "", ".", "a" * 5000,
         '"', "%2e%2e%2f", "\udcff", "CON", "~root/x", "${jndi:x}", "<script>")  # fmt: skip
TENSOR = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["eA=="]}


def request(
    body: bytes, *headers: str, path: str = "/predict", method: str = "POST", length: int = -1
) -> bytes:
    size = len(body) if length < 0 else length
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    lines += [] if any("Transfer" in each for each in headers) else [f"Content-Length: {size}"]
    head = "\r\n".join([*lines, "Connection: close", "", ""])
    return head.encode("utf-8", errors="surrogateescape") + body


def multipart(body: bytes) -> bytes:
    return request(body, "Content-Type: multipart/form-data; boundary=x")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return data with some bytes changed, removed, repeated, or cut off."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(changed))
        kind = chance.randrange(4)
        if kind == 0:
            changed[at] = chance.randrange(256)
        elif kind == 1:
            del changed[at : at + chance.randrange(1, 30)]
        elif kind == 2:
            changed[at:at] = changed[at : at + chance.randrange(1, 30)]
        else:
            del changed[max(at, 20) :]
    return bytes(changed)


def malformed() -> Iterator[bytes]:
    chance = random.Random(0)
    whole, _ = form(("a.png", image_file()), ("b.png", image_file(14)))
    head, _, _ = multipart(whole).partition(b"\r\n\r\n")
    for _ in range(60):
        yield multipart(mutated(whole, chance))
    for _ in range(40):
        yield mutated(head, chance) + b"\r\n\r\n" + whole
    for name in NAMES:
        part = f'Content-Disposition: form-data; name="i"; filename="{name}"'.encode(
            errors="surrogateescape"
        )
        yield multipart(b"--x\r\n" + part + b"\r\n\r\n" + image_file() + b"\r\n--x--\r\n")
        yield request(image_file(), f"Content-Type: image/png; name={name[:100]}")
    for body in (
        b"Z\r\n",
        b"5\r\nabc\r\n0\r\n\r\n",
        b"-1\r\n\r\n",
        b"f" * 40 + b"\r\n",
        b"1;" + b"x" * 9999,
    ):
        for kind in ("chunked", "chunked, chunked", "gzip, chunked", "x"):
            yield request(body, f"Transfer-Encoding: {kind}")
    for size in (100, 20_000, 70_000, 300_000):
        yield request(b"", "X: " + "a" * size)
        yield request(b"", *["X: y"] * (size // 10))
        yield request(b"", path="/" + "a" * size)
        yield request(b"", "Cookie: " + "a=b;" * (size // 4), method="GET", path="/info")
    for length in (0, 1, 10**6, 10**12):
        yield request(image_file(), length=length)
    for value in ("-1", "1, 2", "1e3", "0x10", "", "9" * 30):
        yield f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {value}\r\n\r\n".encode()
    for body in (
        b"", b"{", b"[]", b"null", b'{"inputs": 5}', b'{"inputs": [' + b"[" * 5000, b"\xff\xfe{}",
        json.dumps({"inputs": [TENSOR | {"shape": [-1]}]}).encode(),
        json.dumps({"inputs": [TENSOR | {"shape": [10**9, 10**9]}]}).encode(),
        json.dumps({"inputs": [TENSOR | {"datatype": "FP99"}]}).encode(),
        json.dumps({"inputs": [TENSOR | {"data": {"a": 1}}]}).encode(),
    ):  # fmt: skip
        for path in ("/v2/models/mask_rcnn/infer", "/v2/models/..%2f..%2fx/infer", "/predict"):
            yield request(body, "Content-Type: application/json", path=path)
    for method in ("GET", "DELETE", "BREW", "CONNECT", "TRACE", "OPTIONS", "HEAD"):
        yield request(b"", method=method)
        yield request(b"", method=method, path="*")
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%00",
        "//x",
        "/predict/../info",
        "http://a/",
        "/\u2028",
    ):
        yield request(b"", method="GET", path=path)
    for query in (
        "format=" + "x" * 500,
        "format=%00",
        "format[]=1",
        "&&&=",
        "format=coco&format=x",
    ):
        yield request(image_file(), path=f"/predict?{query}")
    yield request(image_file(), "Upgrade: websocket", "Sec-WebSocket-Version: 13", method="GET")
    yield request(image_file(), "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)  # TLS
    yield b"\r\n" * 5000
    yield b"\x00" * 200_000


def answer_to(service: Served, data: bytes) -> bytes:
    """Return what a client receives that sends all of this, and then waits for some seconds.

    A damaged request can still be valid, and its connection then stays open.
    """
    answer = b""
    with service.connect() as connection, suppress(OSError):
        connection.settimeout(4)
        connection.sendall(data)
        while chunk := connection.recv(1 << 16):
            answer += chunk
    return answer


def statuses(service: Served, requests: list[bytes]) -> list[int]:
    found = []
    for data in requests:
        # what follows a request on its connection is another request, with its own answer
        answers = answer_to(service, data).split(b"HTTP/1.1 ")[1:]
        for answer in answers:
            status = int(answer[:3])
            assert status < 500, (data[:300], answer[:300])
            if status >= 400 and not data.startswith(b"HEAD"):
                assert isinstance(json.loads(answer.partition(b"\r\n\r\n")[2])["error"], str)
        found.append(int(answers[0][:3]) if answers else 0)
    assert service.predict(image_file())[0] == 200
    return found


def test_a_sample(service: Served, capsys: pytest.CaptureFixture[str]) -> None:
    found = statuses(service, list(malformed())[::7])
    assert found.count(0) < len(found) / 10
    assert sum(400 <= status < 500 for status in found) > len(found) / 2
    assert capsys.readouterr().err == ""


@pytest.mark.nightly
def test_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    with served("runner.max_body_mb=1", "runner.timeout_s=1") as service:
        requests = list(malformed())
        found = statuses(service, requests)
    assert len(requests) > 200
    assert found.count(0) < len(found) / 20
    assert capsys.readouterr().err == ""
