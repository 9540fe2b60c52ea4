"""Builds a job in a process of Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from pipeline.config.build import rebuild_job
from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.recorded.run import is_address


def built_here(
    config: Mapping[str, Any], directory: str, decode_threads: int, is_alone: bool
) -> Job:
    """Build the job that another process has configured; its runnable is not entered.

    Args:
        config: The resolved configuration.
        directory: The working directory of that process: paths are relative to it.
        decode_threads: Number of assets to decode at the same time if the job does not say.
        is_alone: Whether all cores of the machine are for this process. It then computes with as
            many threads as a process without Ray, which the last digits depend on.

    Raises:
        ConfigError: This machine has no such directory.
        StoreError: The model is not in the store.
    """
    try:
        os.chdir(directory)
    except OSError as exc:
        if not is_address(str(config["output"])):
            raise ConfigError(
                f"the worker on {socket.gethostname()} has no directory {directory}: "
                f"{exc.strerror}; all machines need the same file system, unless the output is in "
                "an object store"
            ) from exc
    if is_alone:
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it; torch is not imported yet
    job = rebuild_job(config)
    if job.config["decode_threads"] is None:
        job.config["decode_threads"] = decode_threads
    return job
