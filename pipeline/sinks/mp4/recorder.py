"""Encodes the frames of one video in segments, and uses those of a killed run again."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.sinks.mp4.encoder import Encoded, Encoder, Settings
from pipeline.sinks.mp4.segments import Segment, digest, intact, packed
from pipeline.system.output_folder import OutputFolder


@dataclass(slots=True)
class Recorder:
    """The frames of one video, in order; few of them are in memory at a time.

    Attributes:
        folder: Contains the segments.
        name: Name of the directory of segments in ``folder``.
        settings: Determine the encoded bytes.
        segments: Those that are complete.
    """

    folder: OutputFolder
    name: str
    settings: Settings
    segments: list[Segment] = field(default_factory=list)
    _earlier: Segment | None = None  # the segment of a killed run that the frames may equal
    _encoder: Encoder | None = None
    _digests: list[str] = field(default_factory=list)  # of the frames in the current segment
    _packets: list[Encoded] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._open_earlier()

    def add(self, image: NDArray[np.uint8], pts: int) -> None:
        """Encode a frame, unless a segment of a killed run contains it.

        Args:
            image: uint8 ``(height, width, 3)``, BGR, of the size in the settings.
            pts: Its timestamp, higher than that of the frame before.

        Raises:
            OSError: The disk fails.
        """
        mark, n_frames = digest(image, pts), len(self._digests)
        if self._earlier is not None:
            if self._earlier.digests[n_frames] == mark:
                self._digests.append(mark)
                if len(self._digests) == len(self._earlier.digests):
                    self._keep_earlier()
                    self._open_earlier()
                return
            self._keep_earlier()  # up to here; from here on the frames differ
        if self._encoder is None:
            self._encoder = Encoder(self.settings)
        self._digests.append(mark)
        self._packets += self._encoder.encode(image, pts)
        if len(self._digests) == self.settings.frames:
            self._write()

    def finish(self) -> list[Segment]:
        """Complete the last segment, and return all.

        Raises:
            OSError: The disk fails.
        """
        if self._earlier is not None:
            self._keep_earlier()
        elif self._digests:
            self._write()
        return self.segments

    def _open_earlier(self) -> None:
        # only the next one, because a video may have thousands
        self._earlier = intact(self.folder.root / self._next_name(), self.settings)

    def _keep_earlier(self) -> None:
        """Use as many frames of the earlier segment as were equal, and no later segment."""
        assert self._earlier is not None
        if self._digests:
            self.segments.append(Segment(self._earlier.path, (), len(self._digests)))
        self._earlier, self._digests = None, []

    def _write(self) -> None:
        assert self._encoder is not None
        packets = self._packets + self._encoder.finish()
        name = self._next_name()
        self.folder.write(name, packed(self.settings, self._digests, packets))
        self.segments.append(Segment(self.folder.root / name, (), len(packets)))
        self._encoder, self._digests, self._packets = None, [], []

    def _next_name(self) -> str:
        return f"{self.name}/{len(self.segments):06d}"
