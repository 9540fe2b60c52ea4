"""``runner=ray``: a batch on all GPUs of a machine, or of a Ray cluster."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pipeline.errors import ConfigError
from pipeline.job import Executor, Job, Report
from pipeline.protocols import LiveSource
from pipeline.recorded.configuration import moved
from pipeline.sinks.webhook import Webhook
from runners.batch import Batch
from runners.ray.executor import ActorExecutor
from runners.ray.options import RayOptions
from runners.ray.pool import Pool
from runners.ray.remote import RemoteRunnable


@dataclass
class RayBatch(RayOptions, Batch):
    """Runs the pipeline once over every input that is not done, on workers of Ray.

    This process owns the run directory: it locks it, decides what is to do, and commits. Workers
    have a model each, and write the files of their inputs.
    """

    has_workers: ClassVar[bool] = True

    def run(self, job: Job) -> Report:
        """Run the job; see ``Batch``.

        Raises:
            ConfigError: There is no cluster, no device, or a part of the job that needs to be in
                one process.
        """
        self._check(job)
        runnable: Any = RemoteRunnable(job, lambda: self._pool(job), self.wait_s)
        return super().run(replace(job, runnable=runnable))

    def executor(self, job: Job) -> Executor | None:
        """Return the executor of a job with a ``RemoteRunnable``; ``None`` if none is entered."""
        runnable = job.runnable
        if not isinstance(runnable, RemoteRunnable) or runnable.pool is None:
            return None
        return ActorExecutor(job, runnable.pool, self)

    def _check(self, job: Job) -> None:
        device = job.config["device"]
        problems = []
        if re.fullmatch(r"cuda:\d+", device):
            problems.append(
                f"device={device}: each worker has a GPU of its own; write device=cuda, and select "
                "GPUs with CUDA_VISIBLE_DEVICES"
            )
        if isinstance(job.source, LiveSource):
            problems.append("runner=ray: a stream has no inputs to divide; use runner=batch")
        problems += [
            f"sink.{name}: it posts from one process only; remove it, or use runner=batch"
            for name, sink in job.sinks.items()
            if isinstance(sink, Webhook)
        ]
        if problems:
            raise ConfigError(*problems)

    def _pool(self, job: Job) -> Pool:
        from runners.ray.actors import Actors
        from runners.ray.cluster import connected, package_folders, sizes

        config = dict(job.config)
        folders = package_folders(config["trusted_packages"]) if self.send_packages else []
        with ExitStack() as stack:
            ray = stack.enter_context(connected(self.address, self.workers))
            size = sizes(ray.nodes(), config["device"], self.workers)
            config |= {"input": None, "output": job.address or str(job.output)}
            if job.address is not None:  # each machine has a local copy of its own
                config["sink"] = moved(config["sink"], str(job.output), job.address)
            config["device"] = "cuda" if size.on_gpu else "cpu"
            options: dict[str, Any] = {"num_cpus": 0 if size.on_gpu else size.cpus}
            options |= {"num_gpus": 1} if size.on_gpu else {}
            options |= {"runtime_env": {"py_modules": folders}} if folders else {}
            alone = size.are_alone and "OMP_NUM_THREADS" not in os.environ
            arguments = (config, str(Path.cwd()), size.decode_threads, alone)
            return Actors(ray, size.number, options, arguments, stack.pop_all())
