"""Which timestamp of a decoded frame is right, if the file states two that disagree."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Timestamps:
    """Chooses the timestamp of each frame as FFmpeg's programs and players do.

    The presentation time counts, unless it moves back more often than the decoding time. Such files
    exist: programs that copy an AVI to an MP4 write the order of decoding into both.
    """

    _last_pts: int | None = None
    _last_dts: int | None = None
    _wrong_pts: int = 0
    _wrong_dts: int = 0

    def of(self, pts: int | None, dts: int | None) -> int | None:
        """Return the timestamp of the next frame; ``None`` if it has none.

        Args:
            pts: Its presentation time.
            dts: Time of the packet that completed it.
        """
        if pts is None and dts is None:
            return None
        if pts is not None:
            self._wrong_pts += self._last_pts is not None and pts <= self._last_pts
        if dts is not None:
            self._wrong_dts += self._last_dts is not None and dts <= self._last_dts
        self._last_pts = dts if pts is None else pts
        self._last_dts = pts if dts is None else dts
        return (
            dts if pts is None or (dts is not None and self._wrong_pts > self._wrong_dts) else pts
        )
