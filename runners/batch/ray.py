"""``runner=ray``: a batch on all GPUs of a machine, or of a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.job import Executor, Job, Report
from runners.batch.runner import Batch
from runners.ray.executor import ActorExecutor
from runners.ray.options import WorkerOptions
from runners.ray.pool import Pool
from runners.ray.remote import RemoteRunnable
from runners.ray.starting import opened_pool, with_workers


@dataclass
class RayBatch(WorkerOptions, Batch):
    """Runs the pipeline once over every input that is not done, on workers of Ray.

    This process owns the run directory: it locks it, decides what is to do, and commits. Workers
    have a model each, and write the files of their inputs.
    """

    has_workers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_workers()

    def run(self, job: Job) -> Report:
        """Run the job; see ``Batch``.

        Raises:
            ConfigError: There is no cluster, no device, or a part of the job that needs to be in
                one process.
        """
        return super().run(with_workers(job, self, lambda: self._pool(job)))

    def executor(self, job: Job) -> Executor | None:
        """Return the executor of a job with a ``RemoteRunnable``; ``None`` if none is entered."""
        runnable = job.runnable
        if not isinstance(runnable, RemoteRunnable) or runnable.pool is None:
            return None
        return ActorExecutor(job, runnable.pool, self)

    def _pool(self, job: Job) -> Pool:
        return opened_pool(job, self)
