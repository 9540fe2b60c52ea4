"""``sweep.html``: the jobs of a sweep in a table, and the same images of each job side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.sinks.report.html import SWEEP, encoded, write_page
from pipeline.sinks.report.report import MAX_BYTES
from pipeline.sinks.report.report import NAME as REPORT
from runners.reporting.sweep import SweepJob, best_job, differing_keys, metric_name
from runners.reporting.sweep_images import read_images, relative_url

NAME = "sweep.html"
_RESERVE = 500_000  # for the style, the script and the markup


def write_sweep_page(directory: Path, jobs: Sequence[SweepJob]) -> None:
    """Write ``sweep.html`` into the sweep's directory, of at most 25 MB.

    Args:
        directory: The sweep's directory.
        jobs: Its jobs, in order, in whatever processes they ran.

    Raises:
        OutputError: It cannot be written.
    """
    names, best = differing_keys(jobs), best_job(jobs)
    listed = [_facts(job, list(names), directory) for job in jobs]
    n_bytes = MAX_BYTES - _RESERVE - len(encoded(listed))
    data, problems = read_images(directory, jobs, n_bytes)
    for facts in listed:
        facts["message"] = facts["message"] or problems.get(facts["job"], "")
    sweep = {
        "keys": [{"key": key, "name": name} for key, name in names.items()],
        "metric": metric_name(jobs),
        "best": None if best is None else best.job,
        "jobs": listed,
    }
    write_page(directory / NAME, SWEEP, directory.name, data, sweep)


def _facts(job: SweepJob, keys: Sequence[str], directory: Path) -> dict[str, Any]:
    report = job.directory / REPORT
    return {
        "job": job.job,
        "values": [job.value(key) for key in keys],
        "status": job.status,
        "images": job.images,
        "detections": job.detections,
        "classes": None if job.classes is None else dict(job.classes),
        "metric": job.metric,
        "seconds": job.seconds,
        "message": job.message,
        "report": relative_url(report, directory) if report.is_file() else None,
    }
