"""The timeline of a video: how many detections of each class, and its tracks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_BINS = 400
_MAX_TRACKS = 200


@dataclass
class Timeline:
    """A video, or another asset of several frames.

    While it grows, neighboring bins are joined, so that memory is bounded.

    Attributes:
        asset_id: Its id.
        video: Where the drawn video is; ``None`` if there is none.
    """

    asset_id: str
    video: str | None
    _name: str = ""
    _n_frames: int = 0
    _per_bin: int = 1
    _last: tuple[int, float | None] = (0, None)
    _bins: list[Counter[int]] = field(default_factory=list)
    _starts: list[tuple[int, float | None]] = field(default_factory=list)
    _tracks: dict[int, list[Any]] = field(default_factory=dict)

    def add(self, record: dict[str, Any]) -> None:
        """Count a frame."""
        now = record["frame"], record["time_s"]
        self._name, self._last = record["asset"], now
        if self._n_frames == len(self._bins) * self._per_bin:
            if len(self._bins) == 2 * _BINS:
                self._halve()
            self._bins.append(Counter())
            self._starts.append(now)
        self._n_frames += 1
        self._bins[-1].update(each["class_id"] for each in record["instances"])
        for each in record["instances"]:
            track = each.get("track_id", -1)
            if track in self._tracks:
                self._tracks[track][2:] = [now, self._tracks[track][3] + 1]
            elif track >= 0 and len(self._tracks) < _MAX_TRACKS:
                self._tracks[track] = [each["class_id"], now, now, 1]

    def _halve(self) -> None:
        self._bins = [a + b for a, b in zip(self._bins[::2], self._bins[1::2], strict=True)]
        self._starts = self._starts[::2]
        self._per_bin *= 2

    def as_json(self) -> dict[str, Any]:
        """Return the timeline; each bin has its first frame, time, and detections by class."""
        return {
            "id": self._name,
            "video": self.video,
            "frames": self._n_frames,
            "per_bin": self._per_bin,
            "end": self._last,
            "bins": [
                [*start, sorted(counts.items())]
                for start, counts in zip(self._starts, self._bins, strict=True)
            ],
            "tracks": [[track, *facts] for track, facts in sorted(self._tracks.items())],
        }
