"""Builds the aggregates at the end of a run, and remembers for which results they were built."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.errors import OutputError
from pipeline.job import Job
from pipeline.protocols import RecordAggregate
from pipeline.records import Categories
from pipeline.sources.recorded import run_images
from pipeline.system.descriptors import check_held, check_regular, status_of
from pipeline.system.files import is_output_name, sync_folder
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.translation import output_errors

_FACT = "built"  # by name of the aggregate: its options, and the files that it wrote


def build_aggregates(job: Job, ledger: Ledger) -> None:
    """Build all but those of ``build_reports``; the ledger knows the files once it is committed."""
    # aggregates that this job does not have are out of date now, so they are forgotten
    _build(job, ledger, {}, of_record=False)


def build_reports(job: Job, ledger: Ledger) -> None:
    """Build the aggregates that read the record of the run, which is complete now.

    Raises:
        OutputError: The output cannot be written.
    """
    with output_errors(job.output):
        _build(job, ledger, ledger.fact(_FACT) or {}, of_record=True)
        sync_folder(job.output)
        check_held(job.output)
    ledger.commit()


def _build(job: Job, ledger: Ledger, built: dict[str, Any], *, of_record: bool) -> None:
    for name, aggregate in job.aggregates.items():
        if isinstance(aggregate, RecordAggregate) != of_record:
            continue
        if isinstance(aggregate, RecordAggregate):
            build_from_record(aggregate, job.output, job.model.categories)
        else:
            aggregate.build(job.output / PREDICTIONS, job.model.categories)
        # the directories of a part that is a sink too hold its files per asset
        names = [n for n in aggregate.outputs if name not in job.sinks or not n.endswith("/")]
        files = [file for each in names for file in _files(job.output, each)]
        built[name] = {"options": _digest(job, name), "files": sorted(files)}
    ledger.set_fact(_FACT, built)


def build_from_record(aggregate: RecordAggregate, directory: Path, categories: Categories) -> None:
    """Build an aggregate that reads the record of a run."""
    aggregate.build(directory / PREDICTIONS, categories, run_images(directory, aggregate.root))


def are_built(job: Job, ledger: Ledger) -> bool:
    """Return whether every aggregate was built with the same options and its files still exist."""
    built = ledger.fact(_FACT) or {}
    return all(
        name in built
        and built[name]["options"] == _digest(job, name)
        and all(status_of(job.output / file) is not None for file in built[name]["files"])
        for name in job.aggregates
    )


def built_files(output: Path) -> list[str]:
    """Return the files that the aggregates wrote when they were last built."""
    with suppress(OutputError):
        if check_regular(output / LEDGER) is not None:
            with Ledger(output / LEDGER) as ledger:
                built: dict[str, Any] = ledger.fact(_FACT) or {}
            files = [file for each in built.values() for file in each["files"]]
            return [file for file in files if is_output_name(file)]
    return []


def _digest(job: Job, name: str) -> str:
    options = json.dumps(job.config["sink"].get(name), sort_keys=True, default=str)
    return hashlib.sha256(options.encode(errors="surrogateescape")).hexdigest()


def _files(output: Path, name: str) -> Iterator[str]:
    """Yield an output's file, or the files in its directory; none if it was not written."""
    if not name.endswith("/"):
        if status_of(output / name) is not None:
            yield name
        return
    for directory, _, names in os.walk(output / name):
        for each in names:
            yield str((Path(directory) / each).relative_to(output))
