"""Reports and records a sweep: its jobs, ``sweep.csv``, and Hydra's ``multirun.yaml``."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.encoding import read_records
from pipeline.errors import OutputError
from pipeline.recorded.run import COMPLETE, EVALUATION, RECORD
from pipeline.redaction import redacted, safe_text
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import write_whole
from pipeline.system.terminal import print_stdout, width_of
from runners.reporting.console import print_table

NAME = "sweep.csv"
NOT_STARTED = "not started"
_MIN_COLUMN = 4  # width of a column of numbers, with its border
_MAX_VALUE = 40  # characters of a cell
_WIDTH = 80  # of the tables where standard output is no terminal


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep, after it ended.

    What it found is read from its run directory, because it may have run in another process.

    Attributes:
        job: Number of the job, from 0.
        overrides: The options that the sweep varies, with this job's values: ``key=value``.
        status: Exit status of the job; ``None`` if it was not started.
        seconds: Seconds that the job took, including loading; ``None`` if it was not started.
        directory: Run directory of the job.
        images: Number of inputs that are done; ``None`` if the job ended early.
        classes: Number of instances by class; ``None`` if the job ended early.
        metric: The number that the job returned; ``None`` if nothing was evaluated.
        metric_name: Its name.
        message: Why the job failed, or its warning.
    """

    job: int
    overrides: tuple[str, ...]
    status: int | None
    seconds: float | None
    directory: Path
    images: int | None = None
    classes: Mapping[str, int] | None = None
    metric: float | None = None
    metric_name: str = "metric"
    message: str = ""

    @staticmethod
    def of(
        number: int,
        overrides: tuple[str, ...],
        status: int | None,
        seconds: float | None,
        directory: Path,
        metric: float | None = None,
        message: str = "",
    ) -> SweepJob:
        """Return a job with what its run directory says."""
        images, classes, name = None, None, "metric"
        record = _json(directory / RECORD)
        if status in COMPLETE and record.get("state") == "ended":
            images = (record.get("totals") or {}).get("done", 0)
            try:
                classes = _classes(directory, record)
            except OutputError as exc:
                message = message or str(exc)
        if metric is not None:
            name = (_json(directory / EVALUATION).get("metric") or {}).get("name", name)
        return SweepJob(
            job=number,
            overrides=overrides,
            status=status,
            seconds=None if seconds is None else round(seconds, 2),
            directory=directory,
            images=images,
            classes=classes,
            metric=metric,
            metric_name=name,
            message=safe_text(message),
        )

    @property
    def detections(self) -> int | None:
        """Number of instances; ``None`` if the job ended early."""
        return None if self.classes is None else sum(self.classes.values())

    @property
    def shown_status(self) -> int | str:
        """The exit status; ``not started`` without one."""
        return NOT_STARTED if self.status is None else self.status

    def value(self, key: str) -> str:
        """Return the value that it gives to a key; empty if it gives none."""
        return dict(map(_split, self.overrides)).get(key, "")


def varied(overrides: Sequence[str], keys: Collection[str]) -> tuple[str, ...]:
    """Return the overrides of a job that set one of ``keys``; without keys, all."""
    shown = [each for each in overrides if not keys or _split(each)[0] in keys]
    return tuple(redacted(shown))


def differing_keys(jobs: Sequence[SweepJob]) -> dict[str, str]:
    """Return the options that differ between jobs, each with the shortest name that is clear.

    If none differs, all are returned.
    """
    keys = dict.fromkeys(_split(each)[0] for job in jobs for each in job.overrides)
    differ = [key for key in keys if len({job.value(key) for job in jobs}) > 1] or list(keys)
    names = {}
    for key in differ:
        parts = key.split(".")
        ends = [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
        others = [f".{other}" for other in differ if other != key]
        clear = (e for e in ends if not any(other.endswith(f".{e}") for other in others))
        names[key] = next(clear, key)
    return names


def metric_name(jobs: Sequence[SweepJob]) -> str | None:
    """Return the name of what was measured; ``None`` if nothing was evaluated."""
    names = {job.metric_name for job in jobs if job.metric is not None}
    return None if not names else names.pop() if len(names) == 1 else "metric"


def best_job(jobs: Sequence[SweepJob]) -> SweepJob | None:
    """Return the first job with the largest metric; ``None`` if they have none in common."""
    measured = [job for job in jobs if job.metric is not None]
    if len({job.metric_name for job in measured}) > 1:
        return None
    return max(measured, key=lambda job: job.metric or 0, default=None)


def count_classes(jobs: Iterable[SweepJob]) -> Counter[str]:
    """Return the number of instances of all jobs, by class."""
    total: Counter[str] = Counter()
    for job in jobs:
        total.update(job.classes or {})
    return total


def print_sweep(directory: Path, jobs: Sequence[SweepJob]) -> None:
    """Print tables of the jobs on standard output, as wide as the terminal or 80 columns.

    Args:
        directory: The sweep's directory; those of its jobs are shown relative to it.
        jobs: In order.
    """
    width = width_of(sys.stdout) or _WIDTH
    names, metric = differing_keys(jobs), metric_name(jobs)
    places = [_relative(job.directory, directory) for job in jobs]
    is_usual = all(place == str(job.job) for job, place in zip(jobs, places, strict=True))
    columns = ["status", "images", "detections", *([metric] if metric else []), "seconds"]
    columns += [] if is_usual else ["directory"]
    rows = []
    for job, place in zip(jobs, places, strict=True):
        value = "" if job.metric is None else f"{job.metric:.4f}"
        row: list[object] = [job.shown_status, _cell(job.images), _cell(job.detections)]
        rows.append(
            [*row, *([value] if metric else []), _cell(job.seconds), *([] if is_usual else [place])]
        )
    numbers: list[list[object]] = [[job.job] for job in jobs]
    options = [[_end(job.value(key)) for key in names] for job in jobs]
    together = [[*a, *b, *c] for a, b, c in zip(numbers, options, rows, strict=True)]
    head = ["job", *names.values(), *columns]
    if not _fits(head, together, width):
        listed = [[*a, *b] for a, b in zip(numbers, options, strict=True)]
        print_table("Options", ["job", *names.values()], listed, width=width)
        together = [[*a, *c] for a, c in zip(numbers, rows, strict=True)]
        head = ["job", *columns]
    print_table("Sweep", head, together, width=width)
    _print_classes(jobs, width)
    best = best_job(jobs)
    if best is not None:
        chosen = " ".join(f"{name}={best.value(key)}" for key, name in names.items())
        print_stdout(f"best {metric}: {best.metric:.4f} in job {best.job}, {chosen}")
    print_stdout(f"results of the sweep in {directory}", unbroken=[str(directory)])


def _print_classes(jobs: Sequence[SweepJob], width: int) -> None:
    """Print the detections of the most common classes, as many as fit."""
    total = count_classes(jobs)
    if len(total) < 2:
        return
    found = [Counter(job.classes or {}) for job in jobs]
    for n in range(min(len(total), width // _MIN_COLUMN), 0, -1):
        names = [name for name, _ in total.most_common(n)]
        columns = ["job", *names, *(["others"] if n < len(total) else [])]
        rows: list[list[object]] = [
            [job.job, *(counts[name] for name in names),
             *([counts.total() - sum(counts[name] for name in names)] if n < len(total) else [])]
            for job, counts in zip(jobs, found, strict=True)
            if job.classes is not None
        ]  # fmt: skip
        if _fits(columns, rows, width):
            break
    print_table("Detections per class", columns, rows, width=width)


def write_sweep(directory: Path, jobs: Sequence[SweepJob]) -> None:
    """Write ``sweep.csv`` into the sweep's directory, atomically.

    Raises:
        OutputError: It cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for name, _ in count_classes(jobs).most_common()]
    writer.writerow(
        ["job", "overrides", "status", "images", "detections", "metric", "seconds", "directory",
         "message", *(f"detections.{name}" for name in names)]
    )  # fmt: skip
    for job in jobs:
        found = [None if job.classes is None else job.classes.get(name, 0) for name in names]
        writer.writerow(
            [job.job, " ".join(job.overrides), job.shown_status, job.images, job.detections,
             job.metric, job.seconds, job.directory, job.message, *found]
        )  # fmt: skip
    write_whole(directory / NAME, text.getvalue().encode(errors="surrogateescape"))


def write_record(content: Any, path: Path) -> None:
    """Write ``multirun.yaml`` without secrets, atomically, and through no symbolic link."""
    text = yaml.safe_dump(redacted(content), sort_keys=False, allow_unicode=True)
    write_whole(path, text.encode(errors="surrogateescape"))


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def _classes(directory: Path, record: Mapping[str, Any]) -> Counter[str]:
    """Return the number of instances in a run directory, by class."""
    if not (record.get("counts") or {}).get("earlier"):
        return Counter(record.get("detections") or {})
    return Counter(
        instance["class_name"]
        for line in read_records(directory / PREDICTIONS)
        for instance in line["instances"]
    )


def _json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError), open_to_read(path) as file:
        content = json.load(file)
        return content if isinstance(content, dict) else {}
    return {}


def _relative(path: Path, directory: Path) -> str:
    return str(path.relative_to(directory) if path.is_relative_to(directory) else path)


def _end(value: str) -> str:
    """Return the end of a long value, such as a path; ``sweep.csv`` has all of it."""
    return value if len(value) <= _MAX_VALUE else f"...{value[3 - _MAX_VALUE :]}"


def _cell(value: float | None) -> object:
    return "" if value is None else value


def _fits(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> bool:
    cells = [columns, *rows]
    widths = [max(len(f"{row[i]}") for row in cells) for i in range(len(columns))]
    return sum(widths) + 3 * len(columns) + 1 <= width
