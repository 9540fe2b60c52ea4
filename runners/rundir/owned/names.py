"""Finds the names in an output directory that runs own, and protects all others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.errors import ConfigError, OutputError
from pipeline.job import Job
from pipeline.protocols import Aggregate, Sink
from pipeline.sources.paths import refuse_input_in
from pipeline.system.descriptors import names_in, open_to_read, status_of
from pipeline.system.files import is_output_name
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.lists import FAILURES, INPUTS, SKIPPED

LISTS = (PREDICTIONS, FAILURES, INPUTS, SKIPPED)  # of every run
_FACT = "outputs"
Outputs = dict[str, tuple[str, ...]]


def outputs_of(job: Job) -> Outputs:
    """Return the names that each sink and aggregate of a job owns, directories with a ``/``."""
    parts: dict[str, Sink | Aggregate] = {**job.sinks, **job.aggregates}
    return {name: tuple(part.outputs) for name, part in parts.items()}


def recorded_outputs(output: Path, ledger: Ledger | None) -> Outputs:
    """Return the names that the sinks and aggregates of all runs into an output own.

    Args:
        output: The output directory.
        ledger: The ledger of the output. If it is ``None`` or damaged, ``run.json`` is read.
    """
    found: Any = ledger.fact(_FACT) if ledger is not None else None
    if found is None:
        with (
            suppress(OSError, ValueError, KeyError, TypeError),
            open_to_read(output / "run.json") as file,
        ):
            found = json.load(file)[_FACT]
    if not isinstance(found, Mapping):
        return {}
    return {
        str(part): tuple(name for name in names if is_output_name(name))
        for part, names in found.items()
        if isinstance(names, list)
    }


def record_outputs(job: Job, ledger: Ledger) -> Outputs:
    """Add the names that a job owns to the ledger; return those of all runs."""
    recorded = recorded_outputs(job.output, ledger) if ledger.fact(_FACT) else {}
    merged = dict(recorded)
    for part, names in outputs_of(job).items():
        merged[part] = tuple(dict.fromkeys((*recorded.get(part, ()), *names)))
    if merged != recorded:
        ledger.set_fact(_FACT, merged)
        ledger.commit()
    return merged


def refuse_foreign(job: Job, recorded: Outputs) -> None:
    """Refuse to overwrite files that no run wrote, and to read inputs that a restart removes.

    Args:
        job: The job.
        recorded: The outputs that earlier runs into this directory own.

    Raises:
        ConfigError: A file or a directory is in the place of an output, or the input is in one.
    """
    output = job.output
    known = {name for names in recorded.values() for name in names}
    refuse_input_in(output, job.config["input"], known)
    names = [name for name in job.outputs() if name not in known]
    if not has_run(output):
        names = [*dict.fromkeys((*LISTS, *names))]
    for name in names:
        if _holds_something(output / name):
            raise ConfigError(
                f"{output} holds {name}, which no run of d2run wrote; choose another output"
            )


def has_run(output: Path) -> bool:
    """Return whether a run has started in a directory."""
    return any(os.path.lexists(output / name) for name in ("run.json", LEDGER))


def all_names(outputs: Outputs) -> Iterable[str]:
    """Return all names, each once."""
    return dict.fromkeys(name for names in outputs.values() for name in names)


def _holds_something(path: Path) -> bool:
    with suppress(OSError, OutputError):  # reported when it is written to
        status = status_of(path)
        if status is None:
            return False
        return bool(names_in(path)) if path.is_dir() else True
    return False
