"""Prints the messages of a watch on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.system.terminal import print_stderr
from runners.reporting.console import describe_error
from runners.reporting.resuming import resume_command, short

_LINES_PER_MINUTE = 20  # more would be unreadable on a terminal, and fill the journal of a service
_MAX_CLASSES = 5


class Messages:
    """Prints one line per file, or a count per minute while there are many.

    Errors are always printed.

    Args:
        quiet: Print errors only.
        clock: Returns the current time in seconds; monotonic.
    """

    def __init__(self, *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet = quiet
        self._clock = clock
        self._minute_s = clock()  # when the current minute started
        self._n_lines = self._n_counted = 0  # in the current minute
        self._is_busy = False  # whether there were too many files for lines in the minute before
        self._waits_for_files = False
        self._settling = ""

    def file_done(self, asset_id: str, detections: Mapping[str, int]) -> None:
        """Report a file whose result is committed."""
        self.update()
        if self._is_busy or self._n_lines >= _LINES_PER_MINUTE:
            self._n_counted += 1
        else:
            self._n_lines += 1
            self._say(f"{asset_id}: {_counted(detections)}", asset_id)

    def file_failed(self, asset_id: str, error: PipelineError) -> None:
        """Report a file that failed."""
        self.error(f"{asset_id}: {describe_error(error)}")

    def error(self, text: str) -> None:
        """Print an error."""
        print_stderr(f"error: {text}")

    def resolved(self, text: str) -> None:
        """Report that an error no longer occurs."""
        print_stderr(f"resolved: {text}")

    def waiting_for_files(self, folder: str, poll_s: float) -> None:
        """Report, once per run, that all files are processed and the watch waits for others."""
        if not self._waits_for_files:
            self._waits_for_files = True
            self._say(f"waiting for files in {folder.rstrip('/')}/ (poll every {poll_s:g} s)")

    def waiting_to_settle(self, asset_id: str, n_files: int) -> None:
        """Report that files are not complete yet, once per first file.

        Args:
            asset_id: The first of these files.
            n_files: Number of these files.
        """
        self.update()
        if asset_id == self._settling or self._is_busy or self._n_lines >= _LINES_PER_MINUTE:
            return
        self._settling = asset_id
        self._n_lines += 1
        more = f" and {n_files - 1} more" if n_files > 1 else ""
        self._say(f"waiting for {asset_id}{more} to settle", asset_id)

    def update(self) -> None:
        """Report the files that were only counted, when a minute is over."""
        if self._clock() - self._minute_s >= 60.0:
            self._report_counted(" in the last minute")
            self._is_busy = self._n_lines + self._n_counted > _LINES_PER_MINUTE
            self._minute_s, self._n_lines, self._n_counted = self._clock(), 0, 0

    def flush(self) -> None:
        """Report the files that were only counted, at the end of the run."""
        self._report_counted()
        self._n_counted = 0

    def stopped(self, n_results: int, output: Path) -> None:
        """Report that the run was stopped, and how many results its output holds."""
        self._say(f"stopped; {kept_results(n_results, output)}")

    def resume_command(self, output: Path) -> None:
        """Print the command that resumes the run."""
        command = resume_command(sys.orig_argv, output)
        self._say(f"resume with: {command}", command)

    def _report_counted(self, when: str = "") -> None:
        if self._n_counted:
            more = " more" if self._n_lines else ""
            files = "file" if self._n_counted == 1 else "files"
            self._say(f"{self._n_counted}{more} {files} done{when}")

    def _say(self, text: str, unbroken: str = "") -> None:
        if not self._quiet:
            print_stderr(text, unbroken=[unbroken] if unbroken else [])


def kept_results(n_results: int, output: Path) -> str:
    """Return how many results of all runs an output holds: ``312 results are kept in out``."""
    return f"{n_results} result{' is' if n_results == 1 else 's are'} kept in {short(output)}"


def _counted(detections: Mapping[str, int]) -> str:
    """Return the most common classes with their numbers of instances."""
    found = sorted(detections.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{n} {name}" for name, n in found[:_MAX_CLASSES]]
    if rest := sum(n for _, n in found[_MAX_CLASSES:]):
        shown.append(f"{rest} of other classes")
    return ", ".join(shown) or "no detections"
