"""Reports of a benchmark: ratios, tables and a JSON file."""

from __future__ import annotations

import json
import os
import platform
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

Spread = dict[str, float]


def spread(values: Sequence[float]) -> Spread:
    """Return min, median and max."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return how many times faster d2run is, per pair of consecutive processes."""
    return spread([their / our for our, their in zip(ours, theirs, strict=True)])


def shown(value: Spread, digits: int = 2, unit: str = "") -> str:
    """Return ``median (min..max)``."""
    low, middle, high = (f"{value[key]:.{digits}f}" for key in ("min", "median", "max"))
    return f"{middle}{unit} ({low}..{high})"


def say(text: str) -> None:
    """Print a line."""
    Console(soft_wrap=True).print(text, markup=False, highlight=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers."""
    drawn = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    console = Console()
    if not console.is_terminal:  # in a file, each row fits on one line
        console.width = 160
    console.print(drawn)


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores and versions."""
    from pipeline.system.versions import library_versions

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(": ")[1] if names else model
    return {"cpu": model, "cores": _cores(), "versions": library_versions()}


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def at_least_one(text: str) -> int:
    """Read a count for argparse."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def new_file(text: str) -> Path:
    """Read the path of an output file for argparse, which reports at once if it is not writable."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ArgumentTypeError(f"cannot write {text}")
    return path


def save(path: Path | None, report: dict[str, Any]) -> None:
    """Write the report as JSON, if a path is given."""
    if path is not None:
        path.write_text(json.dumps(report, indent=1) + "\n")
