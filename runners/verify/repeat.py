"""The job that repeats a finished run, from its ``run.json``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.protocols import Asset, LiveSource, Source
from pipeline.recorded.configuration import recorded_config
from pipeline.recorded.run import RecordedRun
from pipeline.sources.paths import Origin
from pipeline.sources.recorded import Recorded
from pipeline.sources.several import origins

_SENDS = "pipeline.sinks.webhook."  # sinks whose receiver already has the results


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
    config = recorded_config(job, run, str(job.output))
    if job.config["device"] != "auto":
        config["device"] = job.config["device"]
    if job.config["input"] is not None:
        config["input"] = job.config["input"]
        config["source"] = {**config["source"], "input": job.config["input"]}
    config["sink"] = {
        name: sink
        for name, sink in config["sink"].items()
        if not str(sink.get("_target_")).startswith(_SENDS)
    }
    return config
