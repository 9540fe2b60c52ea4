"""The current health issues of a watch: each is reported once, and shown until it is resolved."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Literal

from runners.reporting.status import Status
from runners.watch.messages import Messages

Kind = Literal["output", "input", "move", "workers"]
_log = logging.getLogger("d2run")


@dataclass
class HealthIssues:
    """The health issues of a watch, at most one per kind. It is healthy if there are none.

    Attributes:
        status: Shows them in ``status.json``, ``health`` and the metrics.
        messages: Prints them.
        current: The text of each, by kind: the ``output`` cannot be written, the ``input`` cannot
            be read, a ``move`` of a file failed, or no one of the ``workers`` answers.
    """

    status: Status
    messages: Messages
    current: dict[Kind, str] = field(default_factory=dict)

    def __contains__(self, kind: Kind) -> bool:
        """Return whether an issue of this kind exists."""
        return kind in self.current

    def report(self, kind: Kind, exc: Exception) -> None:
        """Set the issue of a kind; it is printed and logged only if it is new."""
        if self.current.get(kind) != str(exc):
            self.messages.error(str(exc))
            _log.error("%s", exc)
        self.current[kind] = str(exc)
        self._update_status()

    def resolve(self, kind: Kind) -> None:
        """Remove the issue of a kind, if there is one."""
        if text := self.current.pop(kind, None):
            self.messages.resolved(text)
            _log.info("resolved: %s", text)
        self._update_status()

    def _update_status(self) -> None:
        self.status.health(not self.current, "; ".join(self.current.values()))
