"""Prints the summary of a run on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.job import Report
from pipeline.redaction import safe_text
from pipeline.system.terminal import print_stdout, width_of
from pipeline.system.versions import detectron2_origin, library_versions
from runners.reporting.console import count_reasons, print_table

_STEPS = ("load", "decode", "prepare", "forward", "finish", "stages", "sinks", "waiting")
_MAX_CLASSES = 20
_OUTCOMES = {
    "earlier": "done earlier",
    "later": "left for a later run",
    "not_retried": "not retried",
    "pruned": "removed from the output",
    "removed": "of an earlier run no longer in the input",
}


@contextmanager
def _unless_closed() -> Iterator[None]:
    """Print unless standard output is closed or full: the results are on the disk anyway."""
    try:
        yield
        sys.stdout.flush()
    except (OSError, SystemExit):  # rich turns a closed pipe into SystemExit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@_unless_closed()
def print_summary(
    report: Report,
    device: Mapping[str, Any],
    *,
    verbose: bool = False,
    elapsed_s: float | None = None,
    shown: Callable[[str], str] = str,
) -> None:
    """Print the detections, why images failed, and one line about the run.

    Args:
        report: The end of the run.
        device: The runnable's description of the device.
        verbose: Whether to print the speed-ups and the time per step.
        elapsed_s: Seconds that the run took, if it mostly waited for input.
        shown: Returns how to show a path of the output; see ``Job.shown``.
    """
    counts = ", ".join(f"{n} {_OUTCOMES.get(name, name)}" for name, n in report.counts.items() if n)
    has_more = any(n != report.counts.get(name, 0) for name, n in report.totals.items())
    idle = report.counts and not (report.counts["done"] or report.counts["failed"])
    if idle:
        none = "no new input" if any(report.totals.values()) else "no input"
        what = "lists and aggregates were rebuilt;" if report.rebuilt else "nothing to do:"
        print_stdout(f"{what} {counts or none}")
    else:
        if report.detections:
            title = "Detections in this run" if has_more else "Detections"
            _print_detections(title, report.detections)
        if verbose:
            _print_speedups(device.get("speedups", ()))
            _print_times(report)
    # standard error has a line per failure: where no reason occurs twice, that is enough
    groups = report.failures if any(group.count > 1 for group in report.failures) else ()
    for group in groups:
        more = ", ..." if group.count > len(group.examples) else ""
        examples = f"{', '.join(group.examples)}{more}"
        print_stdout(f"{group.count} x {group.reason}: {examples}", unbroken=group.examples)
    if report.skipped:
        print_stdout(f"skipped: {count_reasons(report.skipped)}")
    if not idle:
        this_run = f"this run: {counts}" if has_more else counts
        _tell_parts([_speed(report, this_run, device), *_machine(device)])
    if elapsed_s is not None and not idle:
        print_stdout(f"processed images for {report.wall_s:.1f} s of {_duration(elapsed_s)}")
    if has_more:
        total = ", ".join(f"{n} {outcome}" for outcome, n in report.totals.items() if n)
        print_stdout(f"in the output: {total or 'no result'}")
    print_place(report.output, shown)


def print_place(output: Path | None, shown: Callable[[str], str] = str) -> None:
    """Print where the results are, and the page that shows them if there is one.

    Args:
        output: The run directory.
        shown: As for ``print_summary``.
    """
    place = shown(str(output))
    print_stdout(f"results in {place}", unbroken=[place])
    page = output and output / "report.html"
    if page and page.is_file():
        place = shown(str(page))
        print_stdout(f"look at them in {place}", unbroken=[place])


def _print_detections(title: str, detections: Mapping[str, int]) -> None:
    by_count = sorted(detections.items(), key=lambda item: (-item[1], item[0]))
    rows: list[tuple[object, ...]] = list(by_count[:_MAX_CLASSES])
    if rest := by_count[_MAX_CLASSES:]:
        rows.append((f"{len(rest)} other classes", sum(n for _, n in rest)))
    print_table(title, ("class", "count"), [*rows, ("all", sum(detections.values()))])


def _print_speedups(speedups: Iterable[Mapping[str, Any]]) -> None:
    rows = [
        (each["name"], each["numerics"], "yes" if each["applied"] else f"no: {each['reason']}")
        for each in speedups
    ]
    if rows:
        print_table("Speed-ups", ("name", "digits", "applied"), rows)


def _print_times(report: Report) -> None:
    def share(seconds: float) -> float:
        return 100 * seconds / report.wall_s if report.wall_s else 0.0

    steps = [(step, report.timings[step]) for step in _STEPS if step in report.timings]
    rows: list[tuple[object, ...]] = [
        (step, seconds, "" if step == "load" else f"{share(seconds):.0f}")
        for step, seconds in steps  # they overlap, except for load, which comes before
    ]
    rows.append(("wall time", report.wall_s, "100"))
    print_table("Time", ("step", "seconds", "% of wall time"), rows)


def _speed(report: Report, counts: str, device: Mapping[str, Any]) -> str:
    parts = [counts] if counts else []
    if report.wall_s and report.counts.get("done"):
        rate = report.counts["done"] / report.wall_s
        parts.append(f"{rate:.1f} images/s" if rate >= 1 else f"{rate:.2g} images/s")
    if device.get("fake") or device.get("replay"):
        parts.append("no model (replay)" if device.get("replay") else "no model (fake)")
    else:
        share = report.busy / (device.get("workers") or 1)
        parts.append(f"model {100 * share:.0f} % of the time")
    return ", ".join(parts)


def _machine(device: Mapping[str, Any]) -> Iterator[str]:
    """Yield the device, and the libraries that computed on it; nothing without a model."""
    if device.get("fake") or device.get("replay"):
        return
    yield " ".join(str(device[key]) for key in ("device", "name") if device.get(key))
    versions = library_versions()
    yield f"torch {versions['torch']}"
    yield f"Detectron2 {detectron2_origin()}"


def _tell_parts(parts: list[str]) -> None:
    """Print parts joined by dots, with line breaks only between them where possible."""
    width, lines = width_of(sys.stdout), [""]
    for part in parts:
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if width is not None and lines[-1] and len(safe_text(longer)) > width:
            lines[-1] += " ·" if len(lines[-1]) + 2 <= width else ""
            lines.append(f"  {part}")
        else:
            lines[-1] = longer
    for line in lines:
        print_stdout(line)


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
