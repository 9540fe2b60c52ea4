"""Prints tables and messages on standard output and standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from pipeline.errors import AssetError, PipelineError
from pipeline.redaction import safe_text
from pipeline.system.terminal import width_of

OTHERS = "other reasons"  # those that are too many to be counted
_MAX_WIDTH = 10_000  # of a table in a file, which has no width of its own


def describe_error(error: PipelineError) -> str:
    """Return the message of an asset's error, with the step at which it failed."""
    step = error.step if isinstance(error, AssetError) else ""
    return f"{step}: {error}" if step else str(error)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    width: int | None = None,
) -> None:
    """Print a table on standard output.

    Cells of text are folded so that the table fits.

    Args:
        title: Printed above the table.
        columns: Names of the columns.
        rows: Cells by row; columns of numbers are right-aligned.
        width: Number of columns of text; by default those of the terminal. Elsewhere, cells stay
            whole.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for i, name in enumerate(columns):
        numbers = [isinstance(row[i], (int, float)) for row in rows if row[i] != ""]
        if numbers and all(numbers):
            table.add_column(name, justify="right", no_wrap=True)
        else:
            table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(safe_text(_cell(cell)) for cell in row))
    width = width or width_of(sys.stdout) or _MAX_WIDTH
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False)
    console.print(title, style="italic")  # a title of the table itself is folded to its width
    console.print(table)


def count_reasons(counts: Mapping[str, int], limit: int = 5) -> str:
    """Return the most common reasons, each with its number of files: ``3 hidden, 1 empty``."""
    common = sorted(counts.items(), key=lambda item: (item[0] == OTHERS, -item[1]))
    rest = sum(n for _, n in common[limit:])
    shown = [f"{n} {reason}" for reason, n in common[:limit]]
    return ", ".join([*shown, f"{rest} for {OTHERS}"] if rest else shown)


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
