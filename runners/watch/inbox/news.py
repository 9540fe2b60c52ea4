"""What a person should be told about a folder, without telling it at every look."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import printable

_EVERY_S = 3600.0
# what is left out by design, or for a moment only
# fmt: off
_EXPECTED = frozenset((
    "hidden", "system file", "temporary file", "ignored", "results of a run", "without a marker",
    "not part of the input", "folder that is not gone into", "no such file",
))
# fmt: on


class News:
    """Gathers the entries that are left out, and tells of each cause at most once an hour.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._untold: dict[str, tuple[int, str]] = {}  # cause: how many, one of them
        self._told_at: dict[str, float] = {}

    def note(self, reason: str, asset_id: str, count: int = 1) -> None:
        """Note that ``count`` more entries, one of them ``asset_id``, are left out."""
        if reason not in _EXPECTED:
            before, example = self._untold.get(reason, (0, asset_id))
            self._untold[reason] = before + count, example

    def lines(self) -> list[str]:
        """Return one line for each cause that is due, and count it as told."""
        now = self._clock()
        due = [
            reason
            for reason in self._untold
            if now - self._told_at.get(reason, float("-inf")) >= _EVERY_S
        ]
        lines = []
        for reason in due:
            count, example = self._untold.pop(reason)
            self._told_at[reason] = now
            more = f" and {count - 1} more" if count > 1 else ""
            lines.append(f"left out: {printable(example)}{more}: {reason}")
        return lines
