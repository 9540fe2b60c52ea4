"""The runnable of a job whose model is loaded by workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from pipeline.errors import ConfigError, WorkersLostError
from pipeline.job import Job
from pipeline.models.model import Model
from pipeline.protocols import Pushdown
from pipeline.records import Frame
from pipeline.system.terminal import print_stderr
from runners.cluster.failure import Failure
from runners.cluster.traits import Traits
from runners.ray.pool import Pool, Started, WorkerLost
from runners.rundir.settings import differences

_NOTICE_S = 30.0
_TICK_S = 0.5
_RETRY_S = 2.0


class RemoteRunnable:
    """Stands for the runnables of the workers. Entering starts the workers, leaving ends them.

    Its attributes are those of the first worker that has started, and of the job's own runnable
    before. The other workers may still be starting.

    Attributes:
        pool: The workers, once entered.

    Args:
        job: The job, with the runnable that each worker builds for itself.
        open_pool: Starts the processes of the workers.
        wait_s: Seconds in which one worker must have loaded its model.
    """

    def __init__(self, job: Job, open_pool: Callable[[], Pool], wait_s: float) -> None:
        self._job, self._open_pool, self._wait_s = job, open_pool, wait_s
        self._traits = Traits.of(job.runnable, entered=False)
        self.class_names = job.runnable.class_names
        self.batch_by_shape = False
        self.pool: Pool | None = None
        self._is_stopped = False

    @property
    def device(self) -> str | None:
        """The device of a worker, such as ``cuda:0``: each sees only its own."""
        return self._traits.device

    @property
    def threads(self) -> int | None:
        """CPU threads per forward."""
        return self._traits.threads

    @property
    def batch_size(self) -> int | str | None:
        """Largest number of frames per forward."""
        return self._traits.batch_size

    @property
    def numerics(self) -> Any:
        """What influences the digits."""
        return self._traits.numerics

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the optional fields of the predictions."""
        return self._traits.fields

    @property
    def limits(self) -> Pushdown:
        """The instances that an earlier run dropped."""
        return self._traits.limits

    @property
    def warnings(self) -> list[str]:
        """Warnings about the results."""
        return list(self._traits.warnings)

    def __enter__(self) -> RemoteRunnable:
        """Start the workers, and wait until one has loaded its model.

        Raises:
            ConfigError: There is no device, or a worker computes with other settings.
            StoreError: The weights are unavailable or do not fit.
        """
        self.pool = self._open_pool()
        try:
            started = self._first_started(self.pool)
            self._traits = started.traits
            self._check(started)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the workers."""
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.close()

    def stop(self) -> None:
        """Wait no longer for the first worker; on any thread."""
        self._is_stopped = True

    def describe(self) -> Mapping[str, Any]:
        """Return the device of a worker, how it computes, and the number of workers."""
        number = len(self.pool.workers()) if self.pool is not None else 0
        description = self._traits.description or {"device": self._traits.device}
        if number > 1 and (name := description.get("name")):
            description = {**description, "name": f"{name} ({number} workers)"}
        return {**description, "workers": number}

    def predict(self, frames: Sequence[Frame]) -> NoReturn:
        """Refuse: only workers have a model."""
        raise RuntimeError("RemoteRunnable.predict: the model is loaded by the workers alone")

    def _first_started(self, pool: Pool) -> Started:
        calls = {pool.start(worker): worker for worker in pool.workers()}
        started_s = time.monotonic()
        notice_s = started_s + _NOTICE_S
        retry: dict[int, float] = {}
        failure: Failure | None = None
        while not self._is_stopped:
            for call in pool.wait(list(calls), _TICK_S):
                worker = calls.pop(call)
                try:
                    answer: Started | Failure = pool.result(call)
                except WorkerLost:
                    retry[worker] = time.monotonic() + _RETRY_S
                    continue
                if isinstance(answer, Started):
                    return answer
                failure = answer
            if failure is not None and not (calls or retry):
                raise failure.error()
            now_s = time.monotonic()
            if now_s - started_s > self._wait_s:
                why = f": {failure.message}" if failure else ""
                raise WorkersLostError(
                    f"no worker has started in {self._wait_s:g} s (runner.wait_s){why}; the GPUs "
                    "of the cluster may be in use"
                )
            for worker in [each for each, at_s in retry.items() if at_s <= now_s]:
                del retry[worker]
                calls[pool.start(worker)] = worker
            if now_s > notice_s and not self._job.config["quiet"]:
                notice_s = float("inf")
                print_stderr("waiting for the first worker: it loads the model, or has no place")
        raise WorkersLostError("stopped while the workers started")

    def _check(self, started: Started) -> None:
        """Raise ConfigError if the worker's settings are not those that this process expects."""
        model = self._job.model
        expected = self._expected()
        known = expected["model"].get("weights_sha256")
        if isinstance(model, Model) and started.settings["model"]["weights_sha256"] != known:
            model.fetch()  # what the worker has downloaded: its digest is a setting
            expected = self._expected()
        if changed := differences(expected, started.settings):
            raise ConfigError(
                f"the worker on {started.host} computes with other settings: {'; '.join(changed)}"
            )

    def _expected(self) -> dict[str, Any]:
        return replace(self._job, runnable=self).settings()
