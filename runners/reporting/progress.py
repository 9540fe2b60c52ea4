"""Shows the progress of a run on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.job import Job
from pipeline.redaction import safe_text
from pipeline.system.terminal import is_terminal, print_stderr, width_of, wrapped
from runners.reporting.console import describe_error

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

_LINE_EVERY_S = 30.0
_BAR_COLUMNS = 20  # so that the counters beside it fit on 80 columns


def announce_loading(job: Job) -> None:
    """Print on a terminal which model is loaded and where; importing torch alone takes seconds."""
    if job.config["quiet"] or not is_terminal(sys.stderr):
        return
    if job.config["runnable"]["_target_"].endswith((".FakeRunnable", ".Replay")):
        return
    identity, device = job.model.identity(), job.config["device"]
    where = "" if device == "auto" else f" on {device}"
    print_stderr(f"loading {identity.get('tag') or identity.get('name')}{where}")


@dataclass
class Progress:
    """A bar with rate, time left and failures on a terminal; elsewhere a line every 30 seconds.

    Attributes:
        total: Number of assets; ``None`` if nobody knows, as of a stream.
        quiet: Whether to show errors only.
        finished: Number of assets processed so far, including failed ones.
        failed: Number of failed assets so far.
        frames: Number of frames that the model has seen so far.
        has_videos: Whether some assets have many frames, which are then counted as well.
    """

    total: int | None
    quiet: bool = False
    finished: int = field(default=0, init=False)
    failed: int = field(default=0, init=False)
    frames: int = field(default=0, init=False)
    has_videos: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()  # the device's threads count frames
        self._not_to_do = 0
        self._started = self._last_line = time.monotonic()
        self._bar: Bar | None = None
        self._console: Console | None = None
        self._task: Any = None

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        """Show the bar while the block runs."""
        if self.quiet or not self.total or not is_terminal(sys.stderr):
            yield self
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            BarColumn(bar_width=_BAR_COLUMNS),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            TextColumn("[red]{task.fields[failed]}"),
        )
        self._console = Console(stderr=True, width=width_of(sys.stderr))
        with Bar(*columns, console=self._console) as self._bar:
            self._task = self._bar.add_task("", total=self.total, rate="", failed="")
            try:
                yield self
            finally:
                self._bar.live.transient = not self.finished  # a bar at 0 would look like a failure
                self._bar = None

    def advance(
        self,
        asset_id: str,
        error: PipelineError | None = None,
        *,
        partial: PipelineError | None = None,
        not_to_do: int = 0,
    ) -> None:
        """Count one asset, and print its error if it failed or is not done in full.

        Args:
            asset_id: The asset.
            error: Why the asset failed; ``None`` if it is done.
            partial: Why the asset is not done in full.
            not_to_do: Number of assets that have turned out to need no work so far.
        """
        with self._lock:
            self.finished += 1
            self.failed += error is not None
            self._not_to_do = not_to_do
            if error := error or partial:
                self._say(f"error: {asset_id}: {describe_error(error)}", asset_id)
            self._show()

    def forwarded(self, n_frames: int, seconds: float) -> None:
        """Count the frames of a forward; any thread may call it."""
        with self._lock:
            self.frames += n_frames
            if self.has_videos:
                self._show()

    def _show(self) -> None:
        now = time.monotonic()
        total = None if self.total is None else self.total - self._not_to_do
        seconds = max(now - self._started, 1e-9)
        rate = self.finished / seconds
        text = f"{rate:.1f}/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s each"
        if self.has_videos:
            text = f"{self.frames} frames, {self.frames / seconds:.1f}/s"
        failed = f"{self.failed} failed" if self.failed else ""
        if self._bar is not None:
            self._bar.update(
                self._task, completed=self.finished, total=total, rate=text, failed=failed
            )
        elif not self.quiet and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            done = (
                f"{self.finished}/{total} inputs" if total is not None else f"{self.finished} done"
            )
            left = f"{(total - self.finished) / rate:.0f} s left" if total and rate else ""
            print_stderr(", ".join(filter(None, (done, failed, text, left))))

    def _say(self, text: str, asset_id: str) -> None:
        """Print a message, above the bar if there is one."""
        if self._bar is None or self._console is None:
            print_stderr(text, unbroken=[asset_id])
            return
        from rich.text import Text

        lines = wrapped(safe_text(text), width_of(sys.stderr), [asset_id])
        message = Text("\n".join(lines))
        message.stylize("bold red", 0, len("error:"))
        self._console.print(message, soft_wrap=True)
