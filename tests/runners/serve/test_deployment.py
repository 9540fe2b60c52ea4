"""How a deployment of Ray Serve starts and is watched; with a scripted Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from processes import wait_for
from served import served_job

from pipeline.errors import ConfigError, ModelNotFoundError, PipelineError
from runners.cluster.failure import Failure
from runners.cluster.traits import Traits
from runners.serve.replicas import deployment as module
from runners.serve.replicas.board import Board, News, Started
from runners.serve.replicas.deployment import Deployment

ONE = Started("a", "node1/cpu", {}, Traits())


@dataclass
class Scripted:
    """Ray and Ray Serve, which say the next of ``states`` at each question, the last one forever.

    A state is the number of replicas that run, or an error that Ray raises.
    """

    states: Sequence[int | Exception]
    failed: str | None = None
    board: Board = field(default_factory=Board)

    def status(self) -> Any:
        state = self.states[0]
        self.states = self.states[1:] or self.states
        if isinstance(state, Exception):
            raise state
        deployed = SimpleNamespace(replica_states={"RUNNING": state}, message=self.failed)
        application = SimpleNamespace(
            deployments={"replica": deployed},
            message="",
            status="DEPLOY_FAILED" if self.failed else "DEPLOYING",
        )
        return SimpleNamespace(applications={} if state < 0 else {"d2run-x": application})

    def get(self, answer: Any, timeout: float) -> Any:
        return answer


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Deployment, Scripted]]:
    monkeypatch.setattr(module, "_TICK_S", 0.01)

    def make(*states: int | Exception, **options: Any) -> tuple[Deployment, Scripted]:
        scripted = Scripted(states, **options)
        job = served_job("runner.address=local")
        runner: Any = job.runner
        deployment: Any = Deployment(job, runner)
        deployment._name, deployment.n_replicas = "d2run-x", 2
        deployment.ray = deployment._serve = scripted
        deployment._board = SimpleNamespace(news=SimpleNamespace(remote=scripted.board.news))
        return deployment, scripted

    return make


Make = Callable[..., tuple[Deployment, Scripted]]


def test_starts_when_all_replicas_run(deployed: Make) -> None:
    deployment, ray = deployed(0, 1, 1, 2)
    ray.board.start(ONE)
    assert deployment.first_news().replicas == [ONE]
    assert ray.states == (2,)


def test_starts_with_those_that_run_in_time(
    deployed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAIT_S", 0.05)
    deployment, ray = deployed(1)
    ray.board.start(ONE)
    assert deployment.first_news().replicas == [ONE]
    deployment, _ = deployed(0)
    with pytest.raises(PipelineError, match=r"no replica has started in 0\.05 s; the GPUs of the"):
        deployment.first_news()


def test_a_replica_that_does_not_start_ends_the_start(deployed: Make) -> None:
    deployment, ray = deployed(0)
    ray.board.fail(Failure.of(ModelNotFoundError("a", ["b"], "the store")))
    with pytest.raises(ModelNotFoundError, match="no model 'a' in the store; known: b"):
        deployment.first_news()
    deployment, _ = deployed(0, failed="no module\nnamed runners")
    with pytest.raises(PipelineError, match="Ray Serve does not start the replicas: no module"):
        deployment.first_news()


def test_waiting_is_announced(
    deployed: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_NOTICE_S", 0.02)
    deployment, _ = deployed(*[1] * 20, 2)
    deployment._job.config["quiet"] = False
    deployment.first_news()
    notice = "waiting for replicas, 1 of 2 run: they load the model, or have no place\n"
    assert capsys.readouterr().err == notice


@dataclass
class Watcher:
    """Remembers what it is told."""

    running: list[int] = field(default_factory=list)
    error: Exception | None = None

    def update(self, news: News, n_running: int) -> None:
        self.running.append(n_running)

    def fail(self, error: Exception) -> None:
        self.error = error


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ((2, 0), "no replica has run for 0.1 s"),
        ((2, -1), "no replica has run for 0.1 s"),
        ((2, ConnectionError("no\nhead")), "the Ray cluster does not answer: no head"),
    ],
)
def test_the_end_of_all_replicas_ends_the_service(
    deployed: Make, monkeypatch: pytest.MonkeyPatch, states: Any, message: str
) -> None:
    for name in ("_WAIT_S", "_ANSWER_S"):
        monkeypatch.setattr(module, name, 0.1)
    deployment, _ = deployed(*states)
    watcher = Watcher()
    deployment.watch(watcher.update, watcher.fail)
    wait_for(lambda: watcher.error)
    assert str(watcher.error) == message
    assert watcher.running[0] == 2


def test_what_goes_by_is_ignored(deployed: Make) -> None:
    deployment, _ = deployed(2, 0, ConnectionError(), 1)
    watcher = Watcher()
    deployment.watch(watcher.update, watcher.fail)
    wait_for(lambda: watcher.running[-1:] == [1])
    deployment.__exit__()
    wait_for(lambda: "watch-replicas" not in [each.name for each in threading.enumerate()])
    assert watcher.error is None


def test_without_ray_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("no grpc", name="grpc")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ConfigError, match=r"needs Ray Serve \(grpc is not installed\): inst"):
        module._ray_serve()
