"""What keeps a watch from its work for now: said once, shown until it is over."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from pipeline.system.terminal import say
from runners.reporting.status import Status

_log = logging.getLogger("d2run")


@dataclass
class Troubles:
    """The troubles of a watch, by kind; it is healthy if there are none."""

    status: Status
    now: dict[str, str] = field(default_factory=dict)

    def __contains__(self, kind: str) -> bool:
        """Say whether there is trouble of this kind."""
        return kind in self.now

    def begin(self, kind: str, exc: Exception) -> None:
        """Have trouble of this kind, until ``end``; who looks on is told when it is new."""
        if self.now.get(kind) != str(exc):
            say(f"error: {exc}")
            _log.error("%s", exc)
        self.now[kind] = str(exc)
        self._tell()

    def end(self, kind: str) -> None:
        """Have no trouble of this kind any more."""
        if text := self.now.pop(kind, None):
            say(f"goes on; it was: {text}")
            _log.info("goes on; it was: %s", text)
        self._tell()

    def _tell(self) -> None:
        self.status.health(not self.now, "; ".join(self.now.values()))
