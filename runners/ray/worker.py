"""What runs in the process of a worker: a job with a model of its own. No Ray here."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from pipeline.config.build import rebuild_job
from pipeline.engine.local import LocalExecutor
from pipeline.errors import ConfigError, PipelineError
from pipeline.job import Job
from pipeline.protocols import Asset, Durable, ReadableAsset, supports
from runners.ray.pool import Failure, Processed, Started
from runners.ray.traits import Traits
from runners.rundir.readers import file_reader, isolated_reader
from runners.todo import fetched_ahead


class Worker:
    """Processes chunks of assets; the process is killed when it is no longer needed.

    Args:
        config: The resolved configuration of the job, with the device of workers.
        directory: The working directory of the run: paths are relative to it.
        decode_threads: Number of assets to decode at the same time if the job does not say.
    """

    def __init__(self, config: Mapping[str, Any], directory: str, decode_threads: int) -> None:
        self._config, self._directory = config, directory
        self._decode_threads = decode_threads
        self._open = ExitStack()
        self._job: Job | None = None
        self._reader: Any = None
        self._isolated: Any = None
        self._steps = 0

    def start(self) -> Started | Failure:
        """Build the job and load its model, unless that is done."""
        try:
            if self._job is None:
                self._job = self._started()
        except PipelineError as exc:
            return Failure.of(exc)
        traits = Traits.of(self._job.runnable, entered=True)
        return Started(socket.gethostname(), self._job.settings(), traits)

    def process(self, pickled: bytes, isolate: bool) -> bytes | Failure | None:
        """Process assets, and make their outputs durable.

        Args:
            pickled: The assets.
            isolate: Whether to decode them in processes of their own.

        Returns:
            ``Processed``, pickled; ``None`` if this process was never started: it has replaced the
            one that was.
        """
        if self._job is None:
            return None
        started_s = time.monotonic()
        executor = LocalExecutor(self._job, on_forward=self._step)
        own_readers: dict[str, Any] = {}
        outcomes = []
        try:
            reader = self._isolated_reader() if isolate else self._reader
            assets = self._opened(pickle.loads(pickled), reader, own_readers)
            for outcome in executor.run(assets):
                self._step()
                if outcome.asset.id in own_readers:  # processes cannot be sent
                    outcome.asset.reader = own_readers[outcome.asset.id]  # type: ignore[attr-defined]
                outcomes.append(outcome)
            for sink in self._job.sinks.values():
                if isinstance(sink, Durable):
                    sink.sync()
        except PipelineError as exc:
            return Failure.of(exc)
        return pickle.dumps(Processed(outcomes, time.monotonic() - started_s))

    def progress(self) -> int:
        """Return the number of steps so far; it grows while the worker works."""
        return self._steps

    def _started(self) -> Job:
        try:
            os.chdir(self._directory)
        except OSError as exc:
            raise ConfigError(
                f"the worker on {socket.gethostname()} has no directory {self._directory}: "
                f"{exc.strerror}; all machines need the same file system"
            ) from exc
        job = rebuild_job(self._config)
        if job.config["decode_threads"] is None:
            job.config["decode_threads"] = self._decode_threads
        with ExitStack() as stack:
            stack.enter_context(job.runnable)
            self._reader = stack.enter_context(file_reader(job, isolate_by_default=False))
            for sink in job.sinks.values():
                stack.enter_context(sink)
            self._open = stack.pop_all()
        return job

    def _isolated_reader(self) -> Any:
        if self._isolated is None and self._job is not None:
            self._isolated = self._open.enter_context(isolated_reader(self._job))
        return self._isolated or self._reader

    def _opened(
        self, assets: Iterable[Asset], reader: Any, own_readers: dict[str, Any]
    ) -> Iterator[Asset]:
        for asset, _ in fetched_ahead((asset, 0) for asset in assets):
            self._step()
            if reader is not None and supports(asset, ReadableAsset):
                own_readers[asset.id] = asset.reader
                asset.reader = reader
            yield asset

    def _step(self, *_: object) -> None:
        self._steps += 1
