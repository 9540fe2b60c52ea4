"""The job of the unsharded command, from the record of one of its shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.recorded.configuration import recorded_config
from pipeline.redaction import redacted
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import expanded
from runners.merge.shards import ShardRun
from runners.rundir.settings import differences

_OWN = ("runner", "output", "quiet", "verbose", "trusted_packages", "decode_threads", "queue_mb")
_PERMISSIONS = ("model.trust",)


def refuse_options(job: Job) -> None:
    """Raise ConfigError for options of the command line that the shards have recorded."""
    for override in job.hydra_files.get("overrides.yaml", ()):
        key = str(override).partition("=")[0].lstrip("+~")
        if key.partition(".")[0] not in _OWN and key not in _PERMISSIONS:
            raise ConfigError(f"runner=merge takes the settings from the shards; remove {override}")


def merged_job(job: Job, reference: ShardRun) -> Job:
    """Return the batch whose shards are merged, with the output of the command line.

    Call it in the directory in which the shard was started.

    Args:
        job: The job of ``runner=merge``.
        reference: A shard.

    Raises:
        ConfigError: It cannot be built, or this installation has other settings.
        StoreError: The model is not in the store.
    """
    from pipeline.config.build import rebuild_job  # it imports Hydra

    config = recorded_config(job, reference.run, _output(job, reference))
    merged = rebuild_job(config, job.started)
    now: Any = redacted(merged.settings() | {"device": None})
    before: Any = redacted(reference.ledger.fact("settings"))
    if changed := differences(before, now):
        raise ConfigError(
            f"the shards have other settings than here ({'; '.join(changed)}); merge them with "
            "the installation and the models that they were run with"
        )
    return replace(merged, hydra_files=_hydra_files(merged, reference))


def _output(job: Job, reference: ShardRun) -> str:
    """Return the output as the unsharded command spells it, because sinks record their options."""
    recorded = str(reference.run.record.get("config", {}).get("output"))
    spelled = recorded.removesuffix(str(reference.shard.directory(Path("/"))))
    return spelled if expanded(spelled) == job.output else str(job.output)


def _hydra_files(merged: Job, reference: ShardRun) -> dict[str, Any]:
    """Return the content of ``.hydra/`` for a ``runner=rerun`` of the merged run."""
    found: dict[str, Any] = {}
    for name in ("overrides.yaml", "hydra.yaml"):
        path = reference.path / ".hydra" / name
        with suppress(OSError, ValueError, yaml.YAMLError), open_to_read(path) as file:
            found[name] = yaml.safe_load(file)
    if isinstance(found.get("overrides.yaml"), list):
        found["overrides.yaml"] = list(_unsharded(found["overrides.yaml"]))
    return found | {"config.yaml": merged.config} if found else {}


def _unsharded(overrides: list[Any]) -> Iterator[str]:
    for override in map(str, overrides):
        if override.partition("=")[0].lstrip("+~") != "runner.shard":
            yield override
