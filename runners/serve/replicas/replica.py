"""A process of Ray Serve with a model of its own, and the application of ``runner=serve``."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, suppress
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

_LINGER_S = 1.0


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
        self._service.ended.add_done_callback(self._end_failed)

    async def answer(self, call: Call) -> Reply:
        """Answer a request."""
        reply = await reply_of(self._app, call)
        return replace(reply, notes=self._journal.removed())

    async def check_health(self) -> None:
        """Report to the board; Ray Serve replaces a replica that does not answer this."""
        try:
            await self._board.beat.remote(self._id, self._journal.removed())
        except self._ray.exceptions.ActorDiedError:  # the command was killed
            delete = partial(self._serve.delete, self._context.app_name)
            Thread(target=delete, name="delete", daemon=True).start()

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

    def _end_failed(self, _: object) -> None:
        """End the process if the model has failed; Ray Serve starts another one at once."""
        if self._service.failure is not None:
            self._journal.note("report", f"a replica is replaced: {self._service.failure}")
            Thread(target=self._end, name="end", daemon=True).start()

    def _end(self) -> None:
        time.sleep(_LINGER_S)  # its requests are being answered
        with suppress(self._ray.exceptions.RayError):
            beat = self._board.beat.remote(self._id, self._journal.removed())
            self._ray.get(beat, timeout=_LINGER_S)
        os._exit(1)

    def _device(self, job: Job) -> str:
        device = Traits.of(job.runnable, entered=True).device or job.config["device"]
        gpus = self._ray.get_runtime_context().get_accelerator_ids().get("GPU", ())
        names = [f"cuda:{each}" for each in gpus] or [device]
        return f"{socket.gethostname()}/{','.join(names)}"
