"""``runner.address`` without Ray: a front, and replicas in this process."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fronted import Fronted, RayError, RayTaskError, fronted
from processes import wait_for
from prometheus_client.parser import text_string_to_metric_families
from served import Response, Served, form, image_file, served, served_job

from pipeline.errors import ConfigError, DeviceLostError, PipelineError
from runners.cluster.failure import Failure
from runners.cluster.traits import Traits
from runners.serve.options import ServeOptions
from runners.serve.replicas import front as front_module
from runners.serve.replicas.board import Board, News, Started

IMAGE = image_file()


@pytest.fixture(scope="module")
def behind() -> Iterator[Fronted]:
    with fronted("model=shapes", "runner.max_body_mb=0.1", "runner.timeout_s=1") as running:
        yield running


@pytest.fixture(scope="module")
def plain() -> Iterator[Served]:
    with served("model=shapes", "runner.max_body_mb=0.1", "runner.timeout_s=1") as running:
        yield running


PLAIN_TEXT = {"Content-Type": "text/plain"}
SEVERAL, FORM = form(("a/b.png", IMAGE), ("b.png", b"no"), ("c.png", image_file(40)))
REQUESTS: dict[str, tuple[str, str, Any, Mapping[str, str]]] = {
    "image": ("POST", "/predict", IMAGE, {}),
    "form": ("POST", "/predict", SEVERAL, FORM),
    "coco": ("POST", "/predict?format=coco", IMAGE, {}),
    "overlay": ("POST", "/overlay", IMAGE, {}),
    "overlays": ("POST", "/overlay", SEVERAL, FORM),
    "chunked": ("POST", "/predict", iter([IMAGE[:50], IMAGE[50:]]), {}),
    "tensors": ("POST", "/v2/models/shapes/infer", b"{}", {}),
    "no image": ("POST", "/predict", b"x", {}),
    "nothing": ("POST", "/predict", b"", {}),
    "text": ("POST", "/predict", b"x", PLAIN_TEXT),
    "compressed": ("POST", "/predict", b"x", {"Content-Encoding": "gzip"}),
    "no boundary": ("POST", "/predict", b"x", {"Content-Type": "multipart/form-data"}),
    "format": ("POST", "/predict?format=xml", IMAGE, {}),
    "parameter": ("POST", "/predict?threshold=1", IMAGE, {}),
    "large": ("POST", "/predict", b"x" * 200_000, {}),
    "path": ("POST", "/elsewhere", IMAGE, {}),
    "%2F": ("POST", "/v2/models/a%2Fb/infer", b"{}", {}),
    "method": ("PUT", "/predict", IMAGE, {}),
    "get": ("GET", "/predict", None, {}),
    "host": ("POST", "/predict", IMAGE, {"Host": "evil.example"}),
    "page": ("GET", "/", None, {}),
    "docs": ("GET", "/docs", None, {}),
    "schema": ("GET", "/openapi.json", None, {}),
    "model": ("GET", "/v2/models/shapes", None, {}),
    "no model": ("GET", "/v2/models/other", None, {}),
    "ready": ("GET", "/readyz", None, {}),
    "live": ("GET", "/v2/health/live", None, {}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_answers_are_those_of_a_service_without_ray(
    behind: Fronted, plain: Served, name: str
) -> None:
    method, path, body, headers = REQUESTS[name]
    if name == "chunked":
        body = b"".join(body)
        ours, theirs = (
            each.send(method, path, iter([body[:50], body[50:]]), headers, encode_chunked=True)
            for each in (behind, plain)
        )
    else:
        ours, theirs = (each.send(method, path, body, headers) for each in (behind, plain))
    assert (ours.status, ours.body) == (theirs.status, theirs.body)
    for each in (
        ours,
        theirs,
    ):  # closed by who has not read the body
        each.headers.pop("connection", None)
        each.headers.pop("date")
    assert ours.headers == theirs.headers


def counted(service: Served) -> dict[tuple[str, ...], float]:
    """Return what does not depend on time or place."""
    text = service.get("/metrics").body.decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_created", "_sum", "_bucket", "_seconds_total"))
        and sample.name not in ("d2run_start_timestamp_seconds", "d2run_model_info")
    }


def test_metrics_add_up_the_replicas() -> None:
    with fronted() as behind, served() as plain:
        for running in (behind, plain):
            for _ in range(3):
                running.post("/predict", IMAGE)
            running.post("/predict", SEVERAL, FORM)
            running.post("/predict", b"x")
            running.post("/elsewhere", b"x")
            running.get("/livez")
        ours, theirs = counted(behind), counted(plain)
        assert ours.pop(("d2run_replicas",)) == 2
        assert ours == theirs
        assert ours["d2run_inputs_total", "done"] == 5
        assert ours["d2run_requests_total", "/predict", "200"] == 4
        text = behind.get("/metrics").body.decode()
        assert all(f'device="{each}"' in text for each in ("node1/cpu", "node2/cpu"))
        for step in ("decode", "forward"):
            assert f'd2run_seconds_total{{step="{step}"}}' in text


def test_info_names_the_replicas(behind: Fronted, plain: Served) -> None:
    ours, theirs = behind.get("/info").json, plain.get("/info").json
    assert ours.pop("devices") == ["node1/cpu", "node2/cpu"]
    assert ours == theirs


def test_a_slow_client_occupies_no_replica(behind: Fronted) -> None:
    before = len(behind.deployed.calls)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx"
    assert b"408 Request Timeout" in behind.raw(head)
    assert len(behind.deployed.calls) == before


def hold(running: Fronted, number: int) -> list[socket.socket]:
    """Close the gates, and send requests that wait behind them."""
    for gate in running.gates:
        gate.opened.clear()
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(IMAGE)
    clients = [running.connect() for _ in range(number)]
    for client in clients:
        client.sendall(head + IMAGE)
    wait_for(lambda: running.service.in_flight == number)
    return clients


def test_more_than_the_replicas_accept() -> None:
    with fronted("runner.max_queue=2") as running:
        clients = hold(running, 4)
        refused = running.post("/predict", IMAGE)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        message = "4 requests are in progress, the limit is runner.max_queue=2 per replica"
        assert refused.json == {"error": f"{message}; try again later"}
        running.deployed.update(running.deployed.news("node1/cpu"), 1)
        assert "node2/cpu" not in running.get("/metrics").body.decode()
        for gate in running.gates:
            gate.opened.set()
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
            client.close()
        wait_for(lambda: running.service.in_flight == 0)
        several, header = form(*((f"{i}", IMAGE) for i in range(3)))
        assert running.post("/predict", several, header).status == 413  # as a replica says


def test_bodies_in_memory_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "_MAX_BYTES", len(IMAGE) + 10)
    with fronted() as running:
        clients = hold(running, 1)
        refused = running.post("/predict", IMAGE)
        assert (refused.status, "retry-after" in refused.headers) == (429, True)
        running.gates[0].opened.set()
        assert clients[0].recv(12) == b"HTTP/1.1 200"
        clients[0].close()
        running.gates[1].opened.set()
        wait_for(lambda: running.service.in_flight == 0)
        assert running.post("/predict", IMAGE).status == 200


def test_a_client_that_leaves_cancels_its_call() -> None:
    with fronted() as running:
        (client,) = hold(running, 1)
        client.close()
        wait_for(lambda: running.deployed.calls[0].is_canceled)
        wait_for(lambda: running.service.in_flight == 0)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RayError("died"), 503, "the replica with this request has failed; send it again"),
        (ConnectionError(), 503, "the replica with this request has failed; send it again"),
        (RayTaskError("x"), 500, "the service has failed on this request; its log says where"),
    ],
)
def test_a_call_that_fails(
    behind: Fronted, capsys: pytest.CaptureFixture[str], error: Exception, status: int, message: str
) -> None:
    behind.deployed.error = error
    answer: Response = behind.post("/predict", IMAGE)
    behind.deployed.error = None
    assert (answer.status, answer.json) == (status, {"error": message})
    assert (answer.headers.get("retry-after") == "1") == (status == 503)
    assert ("unexpected RayTaskError" in capsys.readouterr().err) == (status == 500)


def test_the_token_stays_here() -> None:
    with fronted("runner.token=hush-hush") as running:
        assert running.post("/predict", IMAGE).status == 401
        assert running.get("/info").status == 401
        assert not running.deployed.calls
        header = {"Authorization": "Bearer hush-hush", "Host": "elsewhere.example"}
        assert running.post("/predict", IMAGE, header).status == 200
        assert b"authorization" not in dict(running.deployed.sent[0].scope["headers"])


def test_without_replicas(capsys: pytest.CaptureFixture[str]) -> None:
    with fronted() as running:
        failure = Failure(PipelineError, "no such weights")
        running.deployed.update(running.deployed.news(failures=(failure,)), 0)
        ready = running.get("/readyz")
        assert (ready.status, ready.body) == (503, b"no replica\n")
        refused = running.post("/predict", IMAGE)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.json == {"error": "no replica is running; try again later"}
        assert running.get("/livez").status == 200
        assert "error: a replica does not start: no such weights\n" in capsys.readouterr().err
        running.deployed.update(running.deployed.news("node1/cpu"), 1)
        assert running.get("/readyz").status == 200
        running.deployed.fail(PipelineError("the Ray cluster does not answer"))
        assert running.get("/readyz").body == b"failed\n"
        running.service.ended.result(30)


def test_requests_do_not_wait_for_new_replicas() -> None:
    with fronted() as running:
        clients = hold(running, 3)
        running.deployed.update(running.deployed.news(), 0)
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 503"
            client.close()
        assert all(call.is_canceled for call in running.deployed.calls)


def test_lost_replicas_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with fronted() as running:
        for names in (("a", "b"), ("a",), (), ("a",), ("a", "b")):
            running.deployed.update(running.deployed.news(*names), len(names))
        running.service.is_draining = True
        running.deployed.update(running.deployed.news(), 0)
    assert capsys.readouterr().err.splitlines() == [
        "error: a replica was lost; it is started again",
        "error: no replica is running; requests get status 503",
        "resolved: no replica is running; requests get status 503",
        "resolved: a replica was lost; it is started again",
    ]


def test_what_a_replica_reports_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with fronted() as running:
        replica = running.deployed.replicas[0]
        replica.gate.error = DeviceLostError("the device is lost")
        lost = running.post("/predict", IMAGE)
        assert (lost.status, lost.headers["retry-after"]) == (503, "1")
        assert isinstance(replica.service.failure, DeviceLostError)
        replica.journal.note("report", "a replica is replaced")
        running.post("/predict", IMAGE)
        running.post("/predict", IMAGE)
    assert capsys.readouterr().err.count("error: a replica is replaced\n") == 1


def test_board(monkeypatch: pytest.MonkeyPatch) -> None:
    board, now_s = Board(), 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    one, two, other = (
        Started(name, f"{name}/cpu", {"seed": seed}, Traits())
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert board.start(one) == board.start(two) == []
    assert board.start(other) == ["seed was 0, is 1"]
    board.fail(Failure(ConfigError, "x: wrong"))
    board.beat("a", [("report", ("e",))])
    news = board.news()
    assert (news.replicas, news.notes, len(news.failures)) == ([one, two], [("report", ("e",))], 1)
    now_s += 15
    board.beat("b", ())
    now_s += 10
    assert board.news() == News([two], [], [])
    board.beat("a", ())  # it was only slow
    assert board.news().replicas == [one, two]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"address": "ray://host:1"}, "address: expected auto, local or HOST:PORT, or null, got "),
        ({"address": "host"}, "address: expected auto, local or HOST:PORT, or null, got 'host'"),
        ({"address": 1}, "address: expected auto, local or HOST:PORT, or null, got 1"),
        ({"address": "auto", "replicas": 0}, "replicas: expected a whole number from 1 to 10000"),
        ({"address": "auto", "replicas": "x"}, "replicas: expected a whole number from 1 to 10000"),
        ({"replicas": 2}, "replicas: they need runner.address; set it to local or auto"),
        ({"address": "auto", "devices": ["cuda:0"]}, "devices and address: a replica has a GPU of"),
        ({"address": "auto", "record": "x"}, "record and address: a run directory has one writer"),
    ],
)
def test_wrong_values(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServeOptions(**option)
    assert str(caught.value).startswith(message)


def test_one_gpu_cannot_be_named() -> None:
    job = served_job("runner.address=local", "device=cuda:1")
    runner: Any = job.runner
    with pytest.raises(ConfigError, match=r"device=cuda:1: each replica has a GPU of its own; wr"):
        runner.run(job)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.validation.find_spec", lambda name: None)
    ServeOptions()
    with pytest.raises(ConfigError, match=r"ray is not installed. Run: pip install 'd2run\[ray-s"):
        ServeOptions(address="local")
