"""The replicas as an application of Ray Serve, for as long as the command runs."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pipeline.errors import ConfigError, PipelineError, printable
from pipeline.job import Job
from pipeline.system.terminal import print_stderr
from runners.cluster.connection import Sizes, connected, sizes
from runners.cluster.signals import signals_deferred
from runners.serve.options import ServeOptions
from runners.serve.replicas.board import Board, News

_WAIT_S = 600.0  # for the first replica, and for one after all are lost
_NOTICE_S = 30.0
_TICK_S = 0.5
_ANSWER_S = 60.0  # of Ray
_NAME = "replica"  # of the deployment in the application


class Deployment:
    """Starts replicas, watches them, and deletes them when the block ends.

    Args:
        job: The job; each replica builds it for itself.
        options: The runner's options.

    Attributes:
        ray: The module.
        handle: Calls a replica.
        lost: Errors of a call that no replica answers, besides those of Ray.
        n_replicas: How many replicas there should be.
    """

    def __init__(self, job: Job, options: ServeOptions) -> None:
        self._job, self._options = job, options
        self._name = f"d2run-{secrets.token_hex(4)}"
        self._stack, self._closing = ExitStack(), Event()
        self._board: Any = None
        self._serve: Any = None
        self.ray: Any = None
        self.handle: Any = None
        self.lost: tuple[type[Exception], ...] = ()
        self.n_replicas = 0

    def __enter__(self) -> Deployment:
        """Connect to Ray, or start it, and request the replicas.

        Raises:
            ConfigError: There is no cluster at the address, Ray Serve is not installed, or there
                are not as many devices.
        """
        options = self._options
        with ExitStack() as stack:
            connection = connected(options.address or "local", options.replicas)
            self.ray = stack.enter_context(connection)
            size = sizes(self.ray.nodes(), self._job.config["device"], options.replicas, "replicas")
            with signals_deferred():
                self._serve = _ray_serve()
                self.lost = (self._serve.exceptions.RayServeException,)
                stack.callback(self._delete)
                self._deploy(size)
            self.n_replicas = size.number
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Delete the replicas, and disconnect."""
        self._closing.set()
        self._stack.close()

    def first_news(self) -> News:
        """Wait until all replicas run, or one does after 10 minutes, and return their reports.

        Raises:
            PipelineError: A replica does not start; of the class that it has raised.
        """
        started_s = time.monotonic()
        notice_s = started_s + _NOTICE_S
        while True:
            with signals_deferred():
                news = self.news()
                n_running, message = self.status()
            if news.failures:
                raise news.failures[0].error()
            if message is not None:
                raise PipelineError(f"Ray Serve does not start the replicas: {message}")
            if n_running == self.n_replicas:
                return news
            now_s = time.monotonic()
            if now_s > started_s + _WAIT_S:
                if n_running and news.replicas:
                    return news
                raise PipelineError(
                    f"no replica has started in {_WAIT_S:g} s; the GPUs of the cluster may be "
                    "in use"
                )
            if now_s > notice_s and not self._job.config["quiet"]:
                notice_s = float("inf")
                print_stderr(
                    f"waiting for replicas, {n_running} of {self.n_replicas} run: they load the "
                    "model, or have no place"
                )
            time.sleep(_TICK_S)

    def watch(self, update: Callable[[News, int], None], fail: Callable[[Exception], None]) -> None:
        """Start to watch the replicas, on a thread.

        Args:
            update: Called with their reports and the number of those that run.
            fail: Called with the error if there is no replica for 10 minutes, or no Ray.
        """
        Thread(target=self._watch, args=(update, fail), name="watch-replicas", daemon=True).start()

    def news(self) -> News:
        """Return what replicas have reported."""
        news: News = self.ray.get(self._board.news.remote(), timeout=_ANSWER_S)
        return news

    def status(self) -> tuple[int, str | None]:
        """Return how many replicas run, and why Ray Serve has given up if it has."""
        application = self._serve.status().applications.get(self._name)
        if application is None:
            return 0, "the application was deleted"
        deployment = application.deployments.get(_NAME)
        states = deployment.replica_states if deployment is not None else {}
        text = (deployment.message if deployment is not None else "") or application.message
        is_failed = application.status == "DEPLOY_FAILED"
        return states.get("RUNNING", 0), _line(text) if is_failed else None

    def _watch(
        self, update: Callable[[News, int], None], fail: Callable[[Exception], None]
    ) -> None:
        ran_s = answered_s = time.monotonic()
        while not self._closing.wait(_TICK_S):
            now_s = time.monotonic()
            try:
                news, (n_running, _) = self.news(), self.status()
            except Exception as exc:
                if now_s > answered_s + _ANSWER_S and not self._closing.is_set():
                    fail(PipelineError(f"the Ray cluster does not answer: {_line(str(exc))}"))
                    return
                continue
            answered_s = now_s
            ran_s = now_s if n_running else ran_s
            update(news, n_running)
            if now_s > ran_s + _WAIT_S:
                fail(PipelineError(f"no replica has run for {_WAIT_S:g} s"))
                return

    def _deploy(self, size: Sizes) -> None:
        config = dict(self._job.config) | {"input": None, "output": str(self._job.output)}
        config["device"] = "cuda" if size.on_gpu else "cpu"
        resources: dict[str, Any] = {"num_cpus": 0 if size.on_gpu else size.cpus}
        resources |= {"num_gpus": 1} if size.on_gpu else {}
        alone = size.are_alone and "OMP_NUM_THREADS" not in os.environ
        from runners.serve.replicas.replica import Replica

        self._board = self.ray.remote(num_cpus=0)(Board).remote()
        self._serve.start(proxy_location="Disabled")  # clients connect to this process
        deployment = self._serve.deployment(
            name=_NAME,
            num_replicas=size.number,
            max_ongoing_requests=self._options.max_queue,
            max_queued_requests=-1,  # the front limits them
            ray_actor_options=resources,
            health_check_period_s=5,
            health_check_timeout_s=30,
            graceful_shutdown_wait_loop_s=0.1,
            graceful_shutdown_timeout_s=10,
        )(Replica)
        arguments = (config, str(Path.cwd()), size.decode_threads, alone)
        target = self._serve.RunTarget(
            deployment.bind(self._board, *arguments), name=self._name, route_prefix=None
        )
        (self.handle,) = self._serve.run_many(
            [target],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )

    def _delete(self) -> None:
        with signals_deferred(), suppress(Exception):  # the cluster may be gone
            self._serve.delete(self._name)
            if not self._serve.status().applications:
                self._serve.shutdown()


def _ray_serve() -> Any:
    try:
        module = importlib.import_module("ray.serve")
    except ImportError as exc:
        raise ConfigError(
            f"runner.address needs Ray Serve ({exc.name} is not installed): install the extra with "
            "`uv sync --extra ray-serve` or `pip install 'd2run[ray-serve]'`"
        ) from exc
    importlib.import_module("ray.serve.exceptions")
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)  # the front reports
    return module


def _line(text: str) -> str:
    return printable(" ".join(text.split()))[:300]
