"""What a client sends has a size, a type, a time and a place; everything else has a 4xx."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from processes import wait_for
from served import Served, form, image_file, received, served

from pipeline.errors import DecodeError, DeviceLostError
from runners.serve.http.guard import connections
from runners.serve.http.guard.names import asset_name, distinct

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"


def test_types_of_bodies(service: Served) -> None:
    for kind in ("image/png", "application/octet-stream", "application/x-www-form-urlencoded"):
        status, line = service.predict(image_file(), {"Content-Type": kind})
        assert (status, line["asset"], line["height"]) == (200, "image", 12)
    assert service.raw(HEAD + b"Content-Length: 0\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 422"
    )
    for kind in ("text/plain", "application/json", "video/mp4"):
        status, answer = service.predict(image_file(), {"Content-Type": kind})
        assert status == 415
        assert answer["error"].endswith(f"not {kind}")
    assert service.predict(image_file(), {"Content-Encoding": "gzip"})[0] == 415


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit(service: Served, chunked: bool) -> None:
    body = iter([b"x" * 50_000] * 40) if chunked else b"x" * 2_000_000
    header = {"Transfer-Encoding": "chunked"} if chunked else {}
    status, answer, headers = service.request(
        "POST", "/predict", body, header, encode_chunked=chunked
    )
    assert (status, headers["connection"]) == (413, "close")
    assert answer == {"error": "the body is larger than runner.max_body_mb=0.1 megabytes"}


def test_a_client_that_waits_for_100_continue_sends_nothing(service: Served) -> None:
    huge = b"Content-Length: " + b"9" * 20 + b"\r\nExpect: 100-continue\r\n\r\n"
    assert service.raw(HEAD + huge).startswith(b"HTTP/1.1 413")


def test_an_image_that_cannot_be_decoded(service: Served) -> None:
    for body in (b"not an image", image_file()[:200], b""):
        status, answer = service.predict(body)
        assert status == 422
        assert answer["step"] == "decode"
        assert answer["error"]


def test_several_images(service: Served) -> None:
    body, header = form(("a.png", image_file()), ("b.png", b"broken"), ("a.png", image_file(14)))
    status, lines = service.predict(body, header)
    records = [json.loads(line) for line in lines.splitlines()]
    assert status == 200
    assert [record["asset"] for record in records] == ["a.png", "b.png", "a~2.png"]
    assert "not an image" in records[1]["error"]
    assert [records[0]["image_id"], records[2]["image_id"]] == [1, 3]
    body, header = form(("a.png", b"broken"), ("b.png", b"broken"))
    assert service.predict(body, header)[0] == 422


def test_more_images_than_the_queue_can_hold(service: Served) -> None:
    body, header = form(*[(f"{i}.png", image_file()) for i in range(5)])
    assert service.predict(body, header)[0] == 413


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form()[0], 422),
        (form(("", b""))[0], 422),
        (form(("a.png", image_file()))[0][:-6], 400),
        (b"", 400),
        (b"--y\r\n\r\n", 400),
        (b"--x\r\nno header\r\n\r\nx\r\n--x--\r\n", 400),
        (b"--x\r\nA: " + b"b" * 20_000 + b"\r\n\r\nx\r\n--x--\r\n", 400),
        (b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n" * 101 + b"--x--\r\n", 413),
    ],
)
def test_bad_forms(service: Served, body: bytes, status: int) -> None:
    assert service.predict(body, form()[1])[0] == status


def test_a_form_without_a_boundary(service: Served) -> None:
    for kind in ("multipart/form-data", f"multipart/form-data; boundary={'x' * 300}"):
        assert service.predict(b"--x--", {"Content-Type": kind})[0] == 400


@pytest.mark.parametrize(
    "data",
    [
        HEAD,
        b"GET /livez HTTP/1.1\r\nHost: loc",
        b"",
        HEAD + b"Content-Length: 10\r\n\r\nab",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET /li",  # the second on a connection
    ],
)
def test_a_client_that_stalls(service: Served, data: bytes) -> None:
    assert b"HTTP/1.1 408" in service.raw(data)


def test_a_client_that_drips(service: Served) -> None:
    with service.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")

        def drip() -> bool:
            try:
                connection.sendall(b"x")
            except OSError:
                return True
            return False

        wait_for(drip)


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 40_000,
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    ],
)
def test_what_is_not_http(service: Served, data: bytes) -> None:
    answer = service.raw(data)
    assert answer.startswith(b"HTTP/1.1 4")
    assert b'{"error": "' in answer.replace(b'":"', b'": "')


def test_errors_of_routes_are_json(service: Served) -> None:
    status, answer, _ = service.request("GET", "/nothing")
    assert (status, answer) == (404, {"error": "no such path: /nothing"})
    status, answer, headers = service.request("GET", "/predict")
    assert (status, answer, headers["allow"]) == (405, {"error": "no GET /predict"}, "POST")
    assert service.request("HEAD", "/livez")[0] == 200


def test_an_unexpected_error_says_nothing_of_the_request(
    service: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails(images: object) -> None:
        raise KeyError("sent-by-client")

    monkeypatch.setattr(service.service, "predict_all", fails)
    for _ in range(2):
        status, answer = service.predict(image_file())
        assert status == 500
        assert "KeyError" not in answer["error"]
    printed = capsys.readouterr().err
    assert printed.count("unexpected KeyError at ") == 1
    assert "sent-by-client" not in printed


def test_a_full_disk(
    service: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service.service, "directory", Path("/dev/full"))
    status, answer, headers = service.request("POST", "/predict", image_file())
    assert (status, headers["retry-after"]) == (503, "10")
    assert answer["error"].startswith("the service cannot store the request: ")


def test_the_directory_is_created_again(service: Served) -> None:
    os.rmdir(service.service.directory)  # noqa: PTH106
    assert service.predict(image_file())[0] == 200


def test_a_decoder_that_does_not_start_is_not_the_clients_fault(
    service: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(path: Path, **options: object) -> None:
        raise DecodeError("no process to decode it in: no memory")

    monkeypatch.setattr(service.service, "_read", fails)
    status, answer = service.predict(image_file())
    assert status == 503
    assert "no process" in answer["error"]


def test_a_full_queue_and_a_client_that_leaves(service: Served) -> None:
    service.gate.reached.clear()
    service.gate.opened.clear()
    running = service.service
    waiting = [service.connect() for _ in range(4)]
    body = image_file()
    for connection in waiting:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    wait_for(lambda: running.in_flight == 4)
    status, answer, headers = service.request("POST", "/predict", body)
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    assert "runner.max_queue=4" in answer["error"]
    two, header = form(("a.png", body), ("b.png", body))
    waiting.pop().close()
    wait_for(lambda: running.in_flight == 3)  # at once, not when the model has time
    assert service.predict(two, header)[0] == 429  # there is room for one of them
    waiting.pop().close()
    wait_for(lambda: running.in_flight == 2)
    wait_for(lambda: len(list(running.directory.iterdir())) == 2)
    service.gate.opened.set()
    for connection in waiting:
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        connection.close()
    wait_for(lambda: running.in_flight == 0)


def test_too_many_connections(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_CONNECTIONS", 1)
    with service.connect(), service.connect() as second:
        assert received(second).startswith(b"HTTP/1.1 503")


def test_a_lost_device(capsys: pytest.CaptureFixture[str]) -> None:
    with served() as running:
        running.gate.opened.clear()
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(running.predict(image_file())[0]))
        asking.start()
        assert running.gate.reached.wait(30)
        running.gate.error = DeviceLostError("the device is lost")
        running.gate.opened.set()
        asking.join()
        assert answers == [503]
        running.service.ended.result(30)
        assert running.request("GET", "/readyz")[:2] == (503, b"failed\n")
        assert running.request("GET", "/livez")[0] == 200
        assert running.predict(image_file())[0] == 503
        assert isinstance(running.service.failure, DeviceLostError)


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (b"a.jpg", "a.jpg"),
        (b"dir/a.jpg", "dir/a.jpg"),
        (b"../../etc/passwd", "etc/passwd"),
        (b"C:\\x\\a.jpg", "C:/x/a.jpg"),
        (b"/", "image"),
        (b"", "image"),
        (b"..", "image"),
        (b"a\x00\n\x1b[1m.jpg", "a___[1m.jpg"),
        (b"\xff.jpg", "\ufffd.jpg"),
        ("\u202egpj.exe".encode(), "_gpj.exe"),
        (b"x" * 500 + b".jpg", "x" * 196 + ".jpg"),
    ],
)
def test_names(sent: bytes, name: str) -> None:
    assert asset_name(sent) == name


def test_names_are_distinct() -> None:
    known: set[str] = set()
    assert [
        distinct(name, known) for name in ("a.jpg", "a.jpg", "a~2.jpg", "b", "b", ".c", ".c")
    ] == ["a.jpg", "a~2.jpg", "a~2~2.jpg", "b", "b~2", ".c", ".c~2"]
