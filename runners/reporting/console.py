"""What a person sees: progress on standard error, the summary on standard output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.errors import AssetError, PipelineError, printable
from pipeline.job import Report
from pipeline.redaction import redacted_text
from pipeline.system.terminal import print_stderr, print_stdout

_LINE_EVERY_S = 30.0
# they overlap; load comes before
_STEPS = ("decode", "prepare", "forward", "finish", "stages", "sinks", "waiting")

say, tell = print_stderr, print_stdout


def told(error: PipelineError) -> str:
    """Return an asset's error with the step at which it failed."""
    step = error.step if isinstance(error, AssetError) else ""
    return f"{step}: {error}" if step else str(error)


@dataclass
class Progress:
    """A bar with rate and ETA on a terminal; elsewhere a line every 30 seconds.

    Attributes:
        total: Number of assets.
        done: Assets finished so far.
    """

    total: int
    done: int = 0
    _started: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=time.monotonic)

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        """Show it while the block runs."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
            self._bar, self._console = bar, console
            self._task = bar.add_task("", total=self.total, rate="")
            yield self

    def advance(self, skipped: int = 0) -> None:
        """Count one asset.

        Args:
            skipped: How many of all need not be done, as far as is known.
        """
        self.done += 1
        now = time.monotonic()
        rate = self.done / max(now - self._started, 1e-9)
        text = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        if not self._bar.disable:
            self._bar.update(self._task, completed=self.done, total=self.total - skipped, rate=text)
        elif now - self._said >= _LINE_EVERY_S:
            self._said = now
            total = self.total - skipped
            say(f"{self.done}/{total} inputs, {text}, {(total - self.done) / rate:.0f} s to go")

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        if self._bar.disable:
            say(text)
        else:
            text = printable(redacted_text(text))
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    """Print a table on standard output; numbers are right-aligned."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(printable(redacted_text(_number(cell))) for cell in row))
    width = None if sys.stdout.isatty() else 100  # a log has no width of its own
    Console(file=sys.stdout, width=width, markup=False, highlight=False).print(table)


@contextmanager
def _unless_closed() -> Iterator[None]:
    """Print, unless standard output takes nothing any more: the results are on the disk."""
    try:
        yield
        sys.stdout.flush()
    except (OSError, SystemExit):  # a closed pipe, which rich makes a SystemExit; a full device
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@_unless_closed()
def print_summary(report: Report, ran_on: str, of_s: float | None = None) -> None:
    """Print what was found, where the time went, and with what it was done.

    Args:
        report: The end of the run.
        ran_on: Device and libraries.
        of_s: How long the run was there, in seconds, if it waited for most of that time.
    """
    counts = ", ".join(_counted(n, outcome) for outcome, n in report.counts.items() if n)
    if report.counts and not (report.counts["done"] or report.counts["failed"]):
        none = "no new input" if any(report.totals.values()) else "no input"
        tell(f"nothing to do: {counts or none}")
        _tell_the_rest(report)
        return
    found = sorted(report.detections.items(), key=lambda item: (-item[1], item[0]))
    print_table("Detections", ("class", "count"), [*found, ("all", sum(dict(found).values()))])
    steps = [step for step in _STEPS if step in report.timings]
    rows = [(step, *_share(report.timings, step, report.wall_s)) for step in steps]
    rows += [("wall", report.wall_s, 100.0)]
    print_table("Time", ("step", "seconds", "% of wall"), rows)
    rate = report.counts.get("done", 0) / report.wall_s if report.wall_s else 0.0
    load_s = report.timings.get("load", 0.0)
    tell(f"{counts}; {rate:.2f} inputs/s after {load_s:.1f} s of loading the model")
    tell(f"ran on {ran_on}, busy {100 * busy(report):.0f} % of the time")
    if of_s is not None:
        tell(f"at work for {report.wall_s:.1f} s of {_duration(of_s)}")
    _tell_the_rest(report)


_COUNTED = {
    "earlier": "done earlier",
    "later": "left for a later run",
    "not_retried": "not retried",
    "removed": "of an earlier run no longer there",
}


def _counted(n: int, outcome: str) -> str:
    return f"{n} {_COUNTED.get(outcome, outcome)}"


def _tell_the_rest(report: Report) -> None:
    """Print what was skipped, what the output holds if that is more, and where it is."""
    if report.skipped:
        tell(f"skipped: {reasons(report.skipped)}")
    if any(n != report.counts.get(outcome, 0) for outcome, n in report.totals.items()):
        held = ", ".join(f"{n} {outcome}" for outcome, n in report.totals.items() if n)
        tell(f"the output now holds {held or 'no result'}")
    tell(f"results in {report.output}")


def reasons(skipped: Mapping[str, int], most: int = 5) -> str:
    """Return the most common reasons in words, with how many files each has."""
    common = sorted(skipped.items(), key=lambda item: -item[1])
    rest = sum(n for _, n in common[most:])
    shown = [f"{n} {reason}" for reason, n in common[:most]]
    return ", ".join([*shown, f"{rest} for other reasons"] if rest else shown)


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def busy(report: Report) -> float:
    """Return the share of the wall in which the device's thread was in the model's forward."""
    return report.timings.get("forward", 0.0) / report.wall_s if report.wall_s else 0.0


def _share(timings: Mapping[str, float], step: str, wall_s: float) -> tuple[float, float]:
    seconds = timings.get(step, 0.0)
    return seconds, 100 * seconds / wall_s if wall_s else 0.0


def _number(cell: object) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)
