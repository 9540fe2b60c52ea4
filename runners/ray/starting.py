"""Jobs whose model is loaded by workers of Ray, instead of this process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.protocols import LiveSource
from pipeline.recorded.configuration import moved
from pipeline.sinks.webhook import Webhook
from runners.ray.options import WorkerOptions
from runners.ray.pool import Pool
from runners.ray.remote import RemoteRunnable


def with_workers(job: Job, options: WorkerOptions, open_pool: Callable[[], Pool]) -> Job:
    """Return the job with workers, which start when its runnable is entered.

    Args:
        job: The job.
        options: How long to wait for the first worker.
        open_pool: Starts the processes of the workers; see ``opened_pool``.

    Raises:
        ConfigError: A part of the job needs to be in one process.
    """
    _check(job)
    runnable: Any = RemoteRunnable(job, open_pool, options.wait_s)
    return replace(job, runnable=runnable)


def _check(job: Job) -> None:
    device = job.config["device"]
    problems = []
    if re.fullmatch(r"cuda:\d+", device):
        problems.append(
            f"device={device}: each worker has a GPU of its own; write device=cuda, and select "
            "GPUs with CUDA_VISIBLE_DEVICES"
        )
    if job.address is not None and job.address.startswith("memory:"):
        problems.append("output: memory:// exists in one process only; use another output")
    if isinstance(job.source, LiveSource):
        problems.append("runner=ray: a stream has no inputs to divide; use runner=batch")
    problems += [
        f"sink.{name}: it posts from one process only; remove it, or do not use Ray"
        for name, sink in job.sinks.items()
        if isinstance(sink, Webhook)
    ]
    if problems:
        raise ConfigError(*problems)


def opened_pool(job: Job, options: WorkerOptions, *, isolate: bool = False) -> Pool:
    """Start the processes of the workers of a job.

    Args:
        job: The job.
        options: Where, and how many.
        isolate: Whether ``decode.isolation=auto`` means that they decode in processes of their own.

    Raises:
        ConfigError: There is no cluster, or no device.
    """
    from runners.cluster.connection import connected, package_folders, sizes
    from runners.ray.actors import Actors

    config = dict(job.config)
    folders = package_folders(config["trusted_packages"]) if options.send_packages else []
    with ExitStack() as stack:
        ray = stack.enter_context(connected(options.address, options.workers, folders))
        size = sizes(ray.nodes(), config["device"], options.workers)
        config |= {"input": None, "output": job.address or str(job.output)}
        if job.address is not None:  # each machine has a local copy of its own
            config["sink"] = moved(config["sink"], str(job.output), job.address)
        config["device"] = "cuda" if size.on_gpu else "cpu"
        wanted: dict[str, Any] = {"num_cpus": 0 if size.on_gpu else size.cpus}
        wanted |= {"num_gpus": 1} if size.on_gpu else {}
        alone = size.are_alone and "OMP_NUM_THREADS" not in os.environ
        arguments = (config, str(Path.cwd()), size.decode_threads, alone, isolate)
        return Actors(ray, size.number, wanted, arguments, stack.pop_all())
