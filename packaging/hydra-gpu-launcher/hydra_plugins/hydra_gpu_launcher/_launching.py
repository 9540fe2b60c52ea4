"""Prepares the jobs of a sweep, runs them, and reports them."""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, filter_overrides, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from hydra_plugins.hydra_gpu_launcher._devices import NAME_VARIABLE, VARIABLE, Slot, free_memory
from hydra_plugins.hydra_gpu_launcher._errors import LauncherError
from hydra_plugins.hydra_gpu_launcher._finished import (
    config_digest,
    forget_finished,
    read_finished,
    write_finished,
)
from hydra_plugins.hydra_gpu_launcher._job import DONE, SKIPPED, Job, format_table
from hydra_plugins.hydra_gpu_launcher._options import Options
from hydra_plugins.hydra_gpu_launcher._output import Relay
from hydra_plugins.hydra_gpu_launcher._process import JobProcess
from hydra_plugins.hydra_gpu_launcher._signals import DeferredSignals
from hydra_plugins.hydra_gpu_launcher._sweep import Sweep

log = logging.getLogger(__name__)
# without it, Python prints warnings even if an application has configured no logging at all
logging.getLogger(__package__).addHandler(logging.NullHandler())

_OTHER_GPU = re.compile(r"cuda:0*[1-9][0-9]*")


def launch(
    job_overrides: Sequence[Sequence[str]],
    first: int,
    *,
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    options: Options,
    slots: Sequence[Slot],
) -> list[JobReturn]:
    """Run jobs, and return their results in the same order.

    Args:
        job_overrides: The overrides of each job.
        first: Number of the first job.
        context: Hydra's.
        task: The task function. If it has a method ``job_ended``, this is called with each job when
            it has ended, and returns what the sweeper gets for it.
        config: The configuration of the sweep.
        options: The launcher's options.
        slots: Where jobs run.

    Raises:
        LauncherError: A job names a device that it will not have, the task function cannot be
            sent, or jobs that share a directory are to be skipped when finished.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    jobs = [
        _prepare(number, overrides, context, config)
        for number, overrides in enumerate(job_overrides, first)
    ]
    report = getattr(task, "job_ended", None)

    def ended(job: Job) -> None:
        if options.skip_finished and job.status == DONE and (problem := write_finished(job)):
            log.warning("job %d will not be skipped by a later sweep: %s", job.number, problem)
        if report is not None:
            job.value, job.reported = report(job), True

    common = {
        "argv": sys.argv,
        "context": context,
        "task": task,
        "singletons": Singleton.get_state(),
        "stop_timeout_s": options.stop_timeout_s,
        "reports": report is not None,
    }
    try:
        cloudpickle.dumps(common)
    except Exception as exc:
        raise LauncherError(
            f"the task function, or what it uses, cannot be sent to a process: {exc}; if it is a "
            "global object of the script, move it to a module that the script imports"
        ) from exc
    if options.skip_finished and (shared := _shared_directory(jobs)):
        raise LauncherError(
            f"hydra.launcher.skip_finished=true: jobs share the directory {shared}, but each needs "
            "its own; change hydra.sweep.subdir"
        )
    todo = [job for job in jobs if not (options.skip_finished and _is_finished(job))]
    for job in jobs:
        if job.status == SKIPPED:
            ended(job)
    used = len({slot.visible for slot in slots})
    where = f"{used} GPU{'s' * (used > 1)}, " if slots[0].visible else ""
    log.info("running %d jobs on %s%d at a time", len(todo), where, len(slots))
    relay = Relay()
    try:
        with DeferredSignals() as signals:

            def start(job: Job, slot: Slot) -> _ForwardedProcess:
                forget_finished(job.directory)
                payload = cloudpickle.dumps({**common, "config": job.config})
                environment = {**os.environ, VARIABLE: slot.visible, NAME_VARIABLE: slot.device}
                return _ForwardedProcess(payload, environment, relay, f"[{job.number}] ")

            def wait(seconds: float) -> None:
                relay.pump(seconds)
                signals.check()

            sweep = Sweep(
                todo, slots, options, start=start, ended=ended, free_memory=free_memory, wait=wait
            )
            sweep.run()
    finally:
        relay.close()
        log.info("jobs of the sweep\n%s", format_table(jobs))
    return [job.to_return() for job in jobs]


class _ForwardedProcess(JobProcess):
    """A process whose output is forwarded."""

    def __init__(
        self, payload: bytes, environment: dict[str, str], relay: Relay, prefix: str
    ) -> None:
        super().__init__(payload, environment)
        self._relay = relay
        relay.add(self.stdout, prefix, is_error=False)
        relay.add(self.stderr, prefix, is_error=True)

    def close(self) -> None:
        """Forward the rest of the output, and close the files."""
        for stream in (self.stdout, self.stderr):
            self._relay.remove(stream)
        super().close()


def _prepare(
    number: int, overrides: Sequence[str], context: HydraContext, config: DictConfig
) -> Job:
    """Compose the configuration of a job, as Hydra's own launcher does."""
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    if VARIABLE in composed.hydra.job.env_set:
        raise LauncherError(f"hydra.job.env_set.{VARIABLE} is set by the launcher; remove it")
    before = HydraConfig.instance().cfg
    probe = copy.deepcopy(composed)
    try:
        HydraConfig.instance().set_config(probe)  # for interpolations of ${hydra:...}
        sweep = Path(str(probe.hydra.sweep.dir)).absolute()
        directory = sweep / str(probe.hydra.sweep.subdir)
        with read_write(probe.hydra.runtime), open_dict(probe.hydra.runtime):
            probe.hydra.runtime.output_dir = str(directory)
        HydraConfig.instance().set_config(probe)
        task = copy.deepcopy(probe)
        with read_write(task), open_dict(task):
            del task["hydra"]
        digest = config_digest(task, probe.hydra)
        content = OmegaConf.to_container(task, resolve=bool(digest))
    finally:
        HydraConfig.instance().cfg = before
    for key, value in _leaves(content):
        if isinstance(value, str) and _OTHER_GPU.fullmatch(value):
            raise LauncherError(
                f"job {number}: {key}={value}: a job has one GPU, which is cuda:0 in its process; "
                f"remove this, and choose GPUs with hydra.launcher.devices"
            )
    return Job(number, tuple(filter_overrides(overrides)), composed, directory, sweep, digest)


def _shared_directory(jobs: Sequence[Job]) -> Path | None:
    count = Counter(job.directory for job in jobs)
    return next((directory for directory, n in count.items() if n > 1), None)


def _is_finished(job: Job) -> bool:
    """Return whether a job is finished, and mark it."""
    finished, value = read_finished(job)
    if finished:
        job.status, job.value = SKIPPED, value
    return finished


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a configuration, with their keys."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _leaves(value, f"{path}.{i}")
    else:
        yield path, node
