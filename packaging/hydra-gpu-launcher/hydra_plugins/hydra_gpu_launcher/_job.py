"""A job of a sweep: what it is and how it ended. The table of all jobs."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from hydra_plugins.hydra_gpu_launcher._errors import JobFailedError

DONE = "done"
FAILED = "failed"
SKIPPED = "skipped"  # finished by an earlier sweep
STOPPED = "stopped"  # by a signal
NOT_STARTED = "not started"
_NUMBERS = ("job", "seconds", "attempts")  # columns of the table


@dataclass(eq=False)
class Job:
    """A job of a sweep.

    Attributes:
        number: Its number in the sweep, from 0; that of ``hydra.job.num``.
        overrides: The overrides of the job, without those of Hydra.
        config: The composed configuration, with Hydra's.
        directory: The output directory of the job, absolute.
        sweep_directory: The output directory of the sweep, absolute.
        digest: Identifies the configuration; empty if it cannot be resolved.
        status: ``done``, ``failed``, ``skipped``, ``stopped`` or ``not started``.
        exit_status: Exit status of the process, 128 + N if signal N ended it; ``None`` without one.
        reason: Why the job is not done, as one sentence; empty if it is.
        value: What the task function returned or raised; ``None`` if it did neither.
        device: Where the last attempt ran; empty if there was none.
        seconds: How long the last attempt took.
        attempts: How often the job was started.
        returned: What Hydra returned in the process; ``None`` without a result.
        reported: Whether the application reports a failure itself, so that sweepers get ``value``.
    """

    number: int
    overrides: tuple[str, ...]
    config: DictConfig
    directory: Path
    sweep_directory: Path
    digest: str = ""
    status: str = NOT_STARTED
    exit_status: int | None = None
    reason: str = ""
    value: Any = None
    device: str = ""
    seconds: float = 0.0
    attempts: int = 0
    returned: JobReturn | None = field(default=None, repr=False)
    reported: bool = False

    def to_return(self) -> JobReturn:
        """Return what a sweeper gets for the job."""
        result = self.returned or JobReturn(overrides=list(self.overrides))
        if self.status in (DONE, SKIPPED) or self.reported:
            result.status, result.return_value = JobStatus.COMPLETED, self.value
        else:
            error = JobFailedError(f"job {self.number} {self.status}: {self.reason}")
            error.__cause__ = self.value if isinstance(self.value, BaseException) else None
            result.status, result.return_value = JobStatus.FAILED, error
        return result


def describe_exit(code: int) -> str:
    """Return how a process ended.

    Args:
        code: Its return code, -N if signal N ended it.
    """
    if code >= 0:
        return f"its process exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was killed by {name}"


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
