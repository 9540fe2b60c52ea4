"""The table of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hydra_plugins.hydra_gpu_launcher._job import Job

_NUMBERS = ("job", "seconds", "attempts")


def format_table(jobs: Sequence[Job]) -> str:
    """Return a table with a row per job, and a line that counts them by status."""
    columns = ["job", "status", "seconds", "device", "attempts", "overrides", "reason"]
    rows = [
        [
            str(job.number),
            job.status,
            f"{job.seconds:.1f}" if job.attempts else "",
            job.device,
            str(job.attempts),
            " ".join(job.overrides),
            " ".join(job.reason.split()),
        ]
        for job in jobs
    ]
    if not any(job.attempts > 1 for job in jobs):
        index = columns.index("attempts")
        for row in [columns, *rows]:
            del row[index]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = []
    for row in [columns, ["-" * width for width in widths], *rows]:
        cells = (
            cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    counts = Counter(job.status for job in jobs)
    lines.append(", ".join(f"{n} {status}" for status, n in counts.items()))
    return "\n".join(lines)
