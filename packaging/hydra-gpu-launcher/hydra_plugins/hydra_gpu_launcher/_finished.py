"""Records finished jobs in their directories, so that the same sweep can skip them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.hydra_gpu_launcher._job import Job

NAME = ".hydra_gpu_launcher.json"
_VERSION = 1


def config_digest(task: DictConfig, hydra: DictConfig) -> str:
    """Return a digest of the resolved configuration; empty if it cannot be resolved.

    Args:
        task: The configuration of the application.
        hydra: Hydra's, of which what changes the job counts: its name and its environment.
    """
    try:
        parts = [
            OmegaConf.to_container(task, resolve=True, enum_to_str=True),
            hydra.job.name,
            OmegaConf.to_container(hydra.job.env_set, resolve=True),
        ]
        text = json.dumps(parts, sort_keys=True, default=repr)
    except (OmegaConfBaseException, ValueError, TypeError):
        return ""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def read_finished(job: Job) -> tuple[bool, Any]:
    """Return whether the directory of a job says that it finished, and its return value."""
    try:
        record = json.loads((job.directory / NAME).read_bytes())
        if record["version"] == _VERSION and job.digest and record["config"] == job.digest:
            return True, record["value"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return False, None


def write_finished(job: Job) -> str:
    """Record a finished job; return why that is not possible, or nothing."""
    if not job.digest:
        return "its configuration cannot be resolved"
    try:
        text = json.dumps({"version": _VERSION, "config": job.digest, "value": job.value})
        if json.loads(text)["value"] != job.value:
            raise ValueError
    except (TypeError, ValueError):
        return f"its return value of type {type(job.value).__name__} is not plain JSON"
    path = job.directory / NAME
    temporary = path.with_name(f"{NAME}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as exc:
        return f"{path} cannot be written: {exc.strerror}"
    return ""


def forget_finished(directory: Path) -> None:
    """Remove the record of a directory that a job is about to write."""
    (directory / NAME).unlink(missing_ok=True)
