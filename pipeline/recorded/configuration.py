"""The configuration of a finished run, as its ``run.json`` has it, for a job elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.recorded.run import RecordedRun

_OF_COMMAND = ("decode_threads", "queue_mb", "quiet", "verbose", "trusted_packages")


def recorded_config(job: Job, run: RecordedRun, output: str) -> dict[str, Any]:
    """Return the configuration that a run recorded, as a batch with another output.

    Args:
        job: The job of the command line, whose permissions apply.
        run: The run.
        output: The output directory; the options of the sinks name it, too.

    Raises:
        ConfigError: The run does not record its configuration.
    """
    recorded = run.record.get("config")
    if not isinstance(recorded, Mapping) or not {"model", "source", "runnable"} <= set(recorded):
        raise ConfigError(f"the run in '{run.path}' does not record its configuration")
    config = {**job.config, **recorded, **{key: job.config[key] for key in _OF_COMMAND}}
    config |= {"output": output, "runner": {"_target_": "runners.batch.Batch"}}
    config["model"] = {**config["model"], "trust": job.config["model"]["trust"]}
    if config["model"].get("tag"):  # an alias may name another version now
        config["model"]["tag"] = run.model.get("tag") or config["model"]["tag"]
    before = str(recorded.get("output"))
    config["sink"] = {name: moved(sink, before, output) for name, sink in config["sink"].items()}
    return config


def moved(node: Any, before: str, now: str) -> Any:
    """Return the options of a sink with the output directory replaced by another."""
    if isinstance(node, Mapping):
        return {key: moved(value, before, now) for key, value in node.items()}
    if isinstance(node, list):
        return [moved(value, before, now) for value in node]
    if isinstance(node, str) and (node == before or node.startswith(f"{before}/")):
        return now + node[len(before) :]
    return node


@contextmanager
def directory_of(run: RecordedRun) -> Iterator[None]:
    """Change to the directory in which a run was started, if it still exists."""
    here, there = Path.cwd(), run.record.get("cwd")
    if isinstance(there, str) and Path(there).is_dir():
        os.chdir(there)
    try:
        yield
    finally:
        os.chdir(here)
