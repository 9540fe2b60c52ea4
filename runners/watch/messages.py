"""What a watch prints on standard error while it runs."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.redaction import redacted
from pipeline.system.terminal import print_stderr
from runners.reporting.console import describe_error

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
            self._say(f"{asset_id}: {_counted(detections)}")

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
        """Report that files are not complete yet, once for the same first file.

        Args:
            asset_id: The first of them.
            n_files: How many there are.
        """
        self.update()
        if asset_id == self._settling or self._is_busy or self._n_lines >= _LINES_PER_MINUTE:
            return
        self._settling = asset_id
        self._n_lines += 1
        more = f" and {n_files - 1} more" if n_files > 1 else ""
        self._say(f"waiting for {asset_id}{more} to settle")

    def update(self) -> None:
        """Report the files that were only counted, when a minute is over."""
        if self._clock() - self._minute_s >= 60.0:
            self._report_counted(" in the last minute")
            self._is_busy = self._n_lines + self._n_counted > _LINES_PER_MINUTE
            self._minute_s, self._n_lines, self._n_counted = self._clock(), 0, 0

    def stopped(self, text: str) -> None:
        """Report the end of a run that was stopped."""
        self._report_counted()
        self._n_counted = 0
        self._say(text)

    def _report_counted(self, when: str = "") -> None:
        if self._n_counted:
            more = " more" if self._n_lines else ""
            files = "file" if self._n_counted == 1 else "files"
            self._say(f"{self._n_counted}{more} {files} done{when}")

    def _say(self, text: str) -> None:
        if not self._quiet:
            print_stderr(text)


def kept_results(n_results: int, output: Path) -> str:
    """Return how many results an output holds, and the command that continues the run."""
    results = "1 result is" if n_results == 1 else f"{n_results} results are"
    command: list[str] = redacted(sys.orig_argv)
    if not any(argument.startswith("output=") for argument in command):
        command = [*command, f"output={output}"]
    return f"{results} kept in {output}. To resume, run: {shlex.join(command)}"


def _counted(detections: Mapping[str, int]) -> str:
    """Return the most common classes with their numbers of instances."""
    found = sorted(detections.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{n} {name}" for name, n in found[:_MAX_CLASSES]]
    if rest := sum(n for _, n in found[_MAX_CLASSES:]):
        shown.append(f"{rest} of other classes")
    return ", ".join(shown) or "no detections"
