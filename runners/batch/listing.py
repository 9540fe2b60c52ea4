"""What a run counts, and warns about, before it processes its inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sized

from pipeline.job import Job, inputs_of
from pipeline.protocols import Asset, LiveSource
from runners.reporting.console import count_reasons
from runners.rundir.lists import SKIPPED, write_skipped
from runners.rundir.translation import output_errors
from runners.todo import skipped_entries

_LOST = 20  # unreadable directories named on standard error


def count(source: Iterable[Asset]) -> int | None:
    """Return the number of inputs; ``None`` for a stream."""
    if isinstance(source, LiveSource):
        return None
    return len(source) if isinstance(source, Sized) else sum(1 for _ in source)


def record_skipped(job: Job) -> Counter[str]:
    """Write ``skipped.jsonl``; return the number of files in it, by reason."""
    with output_errors(job.output):
        return write_skipped(job.output, skipped_entries(job.source))


def warnings(job: Job, total: int | None, skipped: Counter[str]) -> Iterator[str]:
    """Yield the warnings about what was listed.

    Args:
        job: The job, its input listed.
        total: Number of inputs, if known.
        skipped: Number of skipped files by reason.
    """
    lost = [entry for entry in skipped_entries(job.source) if entry.lost]
    for entry in lost[:_LOST]:
        yield f"skipped: {entry.path}: {entry.reason}"
    if len(lost) > _LOST:
        yield f"skipped: {len(lost) - _LOST} more directories; see {SKIPPED}"
    if total == 0:
        found = f"; skipped: {count_reasons(skipped)}" if skipped else ""
        yield f"there is no image in {', '.join(inputs_of(job.config['input']))}{found}"
