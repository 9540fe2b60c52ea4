"""A stream as the input of a batch: which options apply, how signals end it, how it ended."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError
from pipeline.protocols import LiveSource, Warns
from runners import budget
from runners.signals import stop_handled


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
    _entered: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> LiveInput:
        """Handle the signals."""
        self._entered.enter_context(stop_handled(self._stop))
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the stream."""
        self._entered.close()
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

    def _stop(self, exit_status: int) -> None:
        self.exit_status = exit_status
        self.source.stop()
