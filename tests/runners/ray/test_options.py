"""What ``runner=ray`` accepts, and what it says about a cluster that does not fit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from batches import job_of, write_images

from pipeline.errors import ConfigError, ModelNotFoundError
from runners.batch.ray import RayBatch
from runners.cluster import connection
from runners.cluster.connection import Sizes, connected, package_folders, sizes
from runners.cluster.failure import Failure


@pytest.fixture(autouse=True)
def no_choice_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def node(cpu: int, gpu: int = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": float(cpu)} | ({"GPU": float(gpu)} if gpu else {})}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"workers": 0}, "workers: expected a whole number from 1 to 10000, got 0"),
        ({"workers": "all"}, "workers: expected a whole number from 1 to 10000, got 'all'"),
        ({"address": "10.0.0.1"}, "address: expected auto, local, HOST:PORT or ray://HOST:PORT"),
        ({"chunk": 0}, "chunk: expected a whole number"),
        ({"chunk_mb": 0}, "chunk_mb: expected a whole number"),
        ({"stall_s": 0}, "stall_s: expected a number from 1 to 86400, got 0"),
        ({"wait_s": "1"}, "wait_s: expected a number"),
        ({"send_packages": 1}, "send_packages: expected true or false, got 1"),
        ({"on_error": "x"}, "on_error: expected skip or raise"),
    ],
)
def test_wrong_values(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RayBatch(**option)
    assert str(caught.value).startswith(message)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.validation.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"ray is not installed\. Run: pip install 'd2run\[ray\]'"
    ):
        RayBatch()


def test_ray_is_imported_only_when_used(tmp_path: Path) -> None:
    write_images(tmp_path / "in", "a.png")
    job_of("runner=ray", f"input={tmp_path}/in", f"output={tmp_path}/out")
    assert "ray" not in sys.modules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["device=cuda:1"], "device=cuda:1: each worker has a GPU of its own; write device=cuda"),
        (["output=memory://x/y"], "output: memory:// exists in one process only"),
        (["sink=[webhook]", "sink.webhook.url=http://127.0.0.1:9/"], "sink.webhook: it posts from"),
    ],
)
def test_jobs_that_need_one_process(tmp_path: Path, arguments: list[str], message: str) -> None:
    write_images(tmp_path / "in", "a.png")
    job = job_of("runner=ray", f"input={tmp_path}/in", f"output={tmp_path}/out", *arguments)
    with pytest.raises(ConfigError) as caught:
        job.runner.run(job)
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "expected"),
    [
        ([node(64, 8)], "cuda", "auto", Sizes(8, True, 8)),
        ([node(64, 8)], "auto", 3, Sizes(3, True, 8)),
        ([node(8), node(4, 2), node(32, 2, alive=False)], "auto", "auto", Sizes(2, True, 2)),
        ([node(64, 8)], "cpu", "auto", Sizes(1, False, 64, True)),
        ([node(8), node(16)], "auto", "auto", Sizes(3, False, 8)),
        ([node(8), node(16)], "cpu", 4, Sizes(4, False, 5)),
        ([node(2)], "cpu", 2, Sizes(2, False, 1)),
    ],
)
def test_workers(nodes: Any, device: str, workers: Any, expected: Sizes) -> None:
    assert sizes(nodes, device, workers) == expected


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "message"),
    [
        ([node(4), node(4)], "cuda", "auto", "device=cuda: no machine of the cluster"),
        ([node(8, 4)], "cuda", 5, "runner.workers=5: the cluster has 4 GPUs"),
        ([node(8)], "cpu", 9, "runner.workers=9: the cluster has 8 CPU cores"),
        ([node(0, 1)], "cpu", "auto", "device=cpu: no machine of the cluster has a CPU to spare"),
    ],
)
def test_too_few_devices(nodes: Any, device: str, workers: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sizes(nodes, device, workers)
    assert str(caught.value).startswith(message)


def test_hidden_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match=r"has a GPU \(CUDA_VISIBLE_DEVICES hides those of this"):
        sizes([node(4)], "cuda", "auto")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module ray that connects to anything."""
    fake: Any = type(sys)("ray")
    fake.given = []
    fake.shutdown = lambda: None
    fake.init = lambda **given: fake.given.append((given, os.environ.get("RAY_AUTH_MODE")))
    fake.exceptions = SimpleNamespace(AuthenticationError=PermissionError)
    fake.GcsClient = lambda address: None
    monkeypatch.setattr("importlib.import_module", lambda name: fake)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return fake


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """A server with one answer; an empty one closes the connection."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(100)
            self.request.sendall(answer)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


HTTP2 = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("prefix", ["", "ray://"])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 400 Bad Request"])
def test_addresses_of_something_else(
    fake: Any, monkeypatch: pytest.MonkeyPatch, prefix: str, answer: bytes
) -> None:
    monkeypatch.setattr(connection, "find_spec", lambda name: True)
    with listening(answer) as there:
        address = prefix + there
        with (
            pytest.raises(ConfigError, match=f"runner.address={address}: no Ray cluster answ"),
            connected(address, "auto"),
        ):
            pass
    with pytest.raises(ConfigError, match="refused"), connected(address, "auto"):
        pass
    assert not fake.given


def test_the_client_is_not_installed(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    message = r"address=ray://h:1: it needs Ray's client. Run: pip install 'ray\[client\]'"
    with pytest.raises(ConfigError, match=message), connected("ray://h:1", "auto"):
        pass


def test_tokens(fake: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with listening(HTTP2) as address:
        with connected(address, "auto", ["/p"]):
            pass
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").touch()
        with connected(address, "auto"):
            pass
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with connected("auto", "auto"):
            pass
        assert [mode for _, mode in fake.given] == [None, "token", "disabled"]
        assert [given["address"] for given, _ in fake.given] == [address] * 3
        assert fake.given[0][0]["runtime_env"] == {"py_modules": ["/p"]}

        def refuse(address: str) -> None:
            raise PermissionError

        fake.GcsClient = refuse
        with (
            pytest.raises(ConfigError, match="the cluster wants its token; set RAY_AUTH_TOKEN, or"),
            connected(address, "auto"),
        ):
            pass


def test_packages_to_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plantsim").mkdir()
    (tmp_path / "plantsim/__init__.py").touch()
    (tmp_path / "single_file.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folders(["pipeline", "runners", "plantsim"]) == [str(tmp_path / "plantsim")]
    with pytest.raises(ConfigError, match="'single_file' is not a package in a folder"):
        package_folders(["single_file"])


def test_errors_travel_whole() -> None:
    failure = Failure.of(ModelNotFoundError("a", ["b"], "the store"))
    assert isinstance(failure.error(), ModelNotFoundError)
    assert str(failure.error()) == "no model 'a' in the store; known: b"
    config = Failure.of(ConfigError("x: wrong", "y: wrong")).error()
    assert isinstance(config, ConfigError)
    assert (config.problems, config.exit_status) == (("x: wrong; y: wrong",), 2)
