"""Reports and records a sweep: its jobs, ``sweep.csv``, and Hydra's ``multirun.yaml``."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.job import Report
from pipeline.redaction import redacted
from pipeline.system.files import write_whole
from pipeline.system.terminal import print_stdout
from runners.reporting.console import print_table

NAME = "sweep.csv"


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep, after it ended.

    Attributes:
        job: Number of the job, from 0.
        overrides: The options that the sweep varies, with this job's values.
        status: Exit status of the job.
        images: Number of images done by the job; ``None`` if it ended early.
        detections: Number of instances found in these images.
        seconds: Seconds that the job took, including loading.
        directory: Run directory of the job.
    """

    job: int
    overrides: str
    status: int
    images: int | None
    detections: int | None
    seconds: float
    directory: str

    @staticmethod
    def of(
        number: int,
        overrides: str,
        status: int,
        report: Report | None,
        seconds: float,
        output: Path,
    ) -> SweepJob:
        """Return the row of a job; ``report`` is ``None`` if it ended early."""
        return SweepJob(
            job=number,
            overrides=overrides,
            status=status,
            images=None if report is None else report.counts.get("done", 0),
            detections=None if report is None else sum(report.detections.values()),
            seconds=round(seconds, 2),
            directory=str(output),
        )


_COLUMNS = tuple(field.name for field in fields(SweepJob))


def varied(overrides: Sequence[str], keys: Collection[str]) -> str:
    """Return the overrides of a job that set one of ``keys``; without keys, all."""
    shown = [each for each in overrides if not keys or each.partition("=")[0] in keys]
    return " ".join(redacted(shown))


def print_sweep(directory: Path, jobs: Sequence[SweepJob]) -> None:
    """Print a table of the jobs on standard output.

    Args:
        directory: The sweep's directory; those of its jobs are shown relative to it.
        jobs: In order.
    """
    rows = []
    for job in jobs:
        output = Path(job.directory)
        within = output.is_relative_to(directory)
        job = replace(job, directory=str(output.relative_to(directory) if within else output))
        rows.append(["" if cell is None else cell for cell in astuple(job)])
    print_table("Sweep", _COLUMNS, rows)
    print_stdout(f"results of the sweep in {directory}", unbroken=[str(directory)])


def write_sweep(directory: Path, jobs: Sequence[SweepJob]) -> None:
    """Write ``sweep.csv`` into the sweep's directory, atomically.

    Raises:
        OutputError: It cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(astuple(job) for job in jobs)
    write_whole(directory / NAME, text.getvalue().encode(errors="surrogateescape"))


def write_record(content: Any, path: Path) -> None:
    """Write ``multirun.yaml`` without secrets, atomically, and through no symbolic link."""
    text = yaml.safe_dump(redacted(content), sort_keys=False, allow_unicode=True)
    write_whole(path, text.encode(errors="surrogateescape"))
