"""The job that repeats a finished run, from its ``run.json``."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.protocols import Asset, LiveSource, Source
from pipeline.recorded.run import RecordedRun
from pipeline.sources.paths import Origin
from pipeline.sources.recorded import Recorded
from pipeline.sources.several import origins

_SENDS = "pipeline.sinks.webhook."  # sinks whose receiver already has the results
_OF_COMMAND = ("decode_threads", "queue_mb", "quiet", "verbose", "trusted_packages")


class Chosen:
    """Some of the assets of a source.

    Args:
        source: The source.
        ids: The ids of these assets.
    """

    def __init__(self, source: Source, ids: Collection[str]) -> None:
        self._source, self._ids = source, ids

    def __iter__(self) -> Iterator[Asset]:
        """List the source and return these assets."""
        return (asset for asset in self._source if asset.id in self._ids)

    def __len__(self) -> int:
        """Return how many assets are expected."""
        return len(self._ids)

    def origins(self) -> list[Origin]:
        """Return what identifies the input of the source."""
        return origins(self._source)


class _Originals:
    """The files of all inputs of a run, of which some were added later."""

    def __init__(self, run: RecordedRun) -> None:
        self._recorded = Recorded(str(run.path))

    def __iter__(self) -> Iterator[Asset]:
        return self._recorded.originals()

    def origins(self) -> list[Origin]:
        return self._recorded.origins()


def build_repeat(job: Job, run: RecordedRun, ids: Collection[str]) -> Job:
    """Return the job that processes inputs of a run again, with its settings.

    Args:
        job: The job of the command line: its output, its permissions, its input if it has one (for
            files that were moved), its device if it names one.
        run: The run.
        ids: The inputs to process.

    Raises:
        ConfigError: The run cannot be repeated: says why.
        StoreError: The model is not in the store.
    """
    from pipeline.config.build import rebuild_job  # it imports Hydra

    config = _repeated(job, run)
    if config["input"] is None and "input" in config["source"]:
        raise ConfigError(f"the run in '{run.path}' does not record its input")
    if config["input"] == "-":
        raise ConfigError("the run read its inputs from standard input; add input=PATH")
    repeat = rebuild_job(config)
    if isinstance(repeat.source, LiveSource):
        raise ConfigError("the run read a stream, which cannot be read twice")
    has_more = len(run.origins) > 1 and job.config["input"] is None
    source: Any = _Originals(run) if has_more else repeat.source
    return replace(repeat, source=Chosen(source, ids))


def _repeated(job: Job, run: RecordedRun) -> dict[str, Any]:
    """Return the recorded configuration, except what depends on where and by whom it is run."""
    recorded = run.record.get("config")
    if not isinstance(recorded, Mapping) or not {"model", "source", "runnable"} <= set(recorded):
        raise ConfigError(f"the run in '{run.path}' does not record its configuration")
    before, now = str(recorded.get("output")), str(job.output)
    config = {**job.config, **recorded, **{key: job.config[key] for key in _OF_COMMAND}}
    config |= {"output": now, "runner": {"_target_": "runners.batch.Batch"}}
    config["model"] = {**config["model"], "trust": job.config["model"]["trust"]}
    if config["model"].get("tag"):  # an alias may name another version now
        config["model"]["tag"] = run.model.get("tag") or config["model"]["tag"]
    if job.config["device"] != "auto":
        config["device"] = job.config["device"]
    if job.config["input"] is not None:
        config["input"] = job.config["input"]
        config["source"] = {**config["source"], "input": job.config["input"]}
    config["sink"] = {
        name: _moved(sink, before, now)
        for name, sink in config["sink"].items()
        if not str(sink.get("_target_")).startswith(_SENDS)
    }
    return config


def _moved(node: Any, before: str, now: str) -> Any:
    """Replace the recorded output directory in the options of a sink."""
    if isinstance(node, Mapping):
        return {key: _moved(value, before, now) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, before, now) for value in node]
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
