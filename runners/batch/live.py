"""A stream as the input of a batch: which options apply, how signals end it, how it ended."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from pipeline.errors import ConfigError
from pipeline.protocols import LiveSource, Warns
from runners import budget


def refuse_options(max_failures: Any, **flags: Any) -> None:
    """Raise ConfigError for options of a runner that need a list of inputs.

    Args:
        max_failures: A share is refused.
        flags: Options that must be false.
    """
    for option, value in flags.items():
        if value:
            raise ConfigError(f"runner.{option}: it does not apply to a stream")
    is_share = budget.allowed(max_failures, 1000) != budget.allowed(max_failures, 2000)
    if is_share:
        raise ConfigError(
            "runner.max_failures: expected a number, because the length of a stream is unknown, "
            f"got {max_failures!r}"
        )


@dataclass
class LiveInput:
    """Ends a stream in order at the first SIGTERM or SIGINT while the block runs.

    What has arrived is processed, and the output is completed. A second signal ends the process.

    Attributes:
        source: The stream.
        exit_status: 0 after SIGTERM, as for a watch, and 130 after SIGINT; ``None`` without signal.
    """

    source: LiveSource
    exit_status: int | None = None
    _before: dict[signal.Signals, Any] = field(default_factory=dict)

    def __enter__(self) -> LiveInput:
        """Handle the signals."""
        if threading.current_thread() is threading.main_thread():  # no other may
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the stream."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.source.close()

    def warnings(self) -> list[str]:
        """Return what to say about the stream at its end."""
        return list(self.source.warnings) if isinstance(self.source, Warns) else []

    def verdict(self, status: int, message: str) -> tuple[int, str]:
        """Return exit status and message of the run, given those of its assets."""
        if problem := self.source.problem:
            lost = f"the stream was lost: {problem}"
            status, message = 3, f"{lost}; {message}" if message else lost
        return self.exit_status or status, message

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.exit_status is not None:
            os._exit(128 + number)  # what is committed is kept
        self.exit_status = 130 if number == signal.SIGINT else 0
        self.source.stop()
