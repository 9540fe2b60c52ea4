"""A process of Ray Serve with a model of its own, and the application of ``runner=serve``."""

from __future__ import annotations

import asyncio
import importlib
import socket
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import Any

from pipeline.errors import ConfigError, PipelineError
from pipeline.job import Job
from runners.cluster.building import built_here
from runners.cluster.failure import Failure
from runners.cluster.traits import Traits
from runners.serve.http.app import create_app
from runners.serve.options import ServeOptions
from runners.serve.replicas.board import Started
from runners.serve.replicas.journal import Journal, NotedMetrics, NotedTraffic
from runners.serve.replicas.wire import Call, Reply, reply_of
from runners.serve.service import Service


class Replica:
    """Answers requests; what Ray Serve deploys.

    Args:
        board: The actor with the ``Board``.
        *arguments: Those of ``built_here``.
    """

    def __init__(self, board: Any, *arguments: Any) -> None:
        self._ray: Any = importlib.import_module("ray")
        self._serve: Any = importlib.import_module("ray.serve")
        self._context = self._serve.get_replica_context()
        self._id: str = self._context.replica_id.unique_id
        self._board, self._journal = board, Journal()
        self._stack = ExitStack()
        try:
            self._service = self._started(*arguments)
        except BaseException as exc:
            if not isinstance(exc, PipelineError):
                exc = PipelineError(f"{type(exc).__name__}: {exc}")
            self._ray.get(board.fail.remote(Failure.of(exc)))
            raise
        self._app = create_app(self._service, self._options)

    async def answer(self, call: Call) -> Reply:
        """Answer a request."""
        reply = await reply_of(self._app, call)
        return replace(reply, notes=self._journal.removed())

    async def check_health(self) -> None:
        """Report to the board; Ray Serve replaces a replica that raises here.

        Raises:
            RuntimeError: The model has failed.
        """
        if self._service.failure is not None:
            self._journal.note("report", f"a replica is replaced: {self._service.failure}")
        try:
            await self._board.beat.remote(self._id, self._journal.removed())
        except self._ray.exceptions.ActorDiedError:  # the command was killed
            delete = partial(self._serve.delete, self._context.app_name)
            Thread(target=delete, name="delete", daemon=True).start()
        if self._service.failure is not None:
            raise RuntimeError("the model has failed") from self._service.failure

    async def __del__(self) -> None:
        """Close what is open; Ray Serve calls it, and only when no request is in progress."""
        await asyncio.to_thread(self._stack.close)

    def _started(
        self, config: Mapping[str, Any], directory: str, decode_threads: int, is_alone: bool
    ) -> Service:
        job = built_here(config, directory, decode_threads, is_alone)
        if not isinstance(job.runner, ServeOptions):
            raise ConfigError("runner: not runner=serve")
        self._options = job.runner
        with ExitStack() as stack:
            with warnings.catch_warnings():  # Detectron2 uses what torch has deprecated
                warnings.simplefilter("ignore", FutureWarning)
                stack.enter_context(job.runnable)
            started = Started(
                self._id, self._device(job), job.settings(), Traits.of(job.runnable, entered=True)
            )
            if changed := self._ray.get(self._board.start.remote(started)):
                raise ConfigError(
                    f"the replica on {socket.gethostname()} computes with other settings: "
                    f"{'; '.join(changed)}"
                )
            service = stack.enter_context(
                Service(
                    job,
                    self._options,
                    metrics=partial(NotedMetrics, journal=self._journal),
                    traffic=NotedTraffic(self._journal),
                )
            )
            self._stack = stack.pop_all()
        return service

    def _device(self, job: Job) -> str:
        device = Traits.of(job.runnable, entered=True).device or job.config["device"]
        gpus = self._ray.get_runtime_context().get_accelerator_ids().get("GPU", ())
        names = [f"cuda:{each}" for each in gpus] or [device]
        return f"{socket.gethostname()}/{','.join(names)}"
