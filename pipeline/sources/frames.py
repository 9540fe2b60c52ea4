"""A video, or an image with several pages, as an asset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pipeline.errors import DecodeError
from pipeline.protocols import supports
from pipeline.records import Frame
from pipeline.sources.asset import FileAsset
from pipeline.sources.decode.frames import FramesReader, read_frames
from pipeline.sources.decode.options import Decoded, FrameOptions


@dataclass(slots=True)
class FramesAsset(FileAsset):
    """One file with several frames: a video, an animation, or an image with several pages.

    Attributes:
        options: Which frames.
        is_still: False: outputs are numbered by frame, even if there is only one.
        reader: Reads the frames if it is a ``FramesReader``; by default this process does.
    """

    options: FrameOptions
    is_still: bool = False
    reader: Any = field(default=None, repr=False)

    def frames(self) -> Iterator[Frame]:
        """Read the file, and yield its selected frames, numbered from 0.

        Raises:
            DecodeError: The file cannot be read, or is not a video or an image.
            PartialError: A part of it could not be decoded; raised after the last frame.
        """
        reader = self.reader
        read = reader.frames if supports(reader, FramesReader) else read_frames
        try:
            # without a local variable, which would keep the pixels alive
            yield from map(self._frame, count(), read(self.path, self.options, self._remember))
        except DecodeError as exc:
            exc.asset_id = self.id
            if exc.version is not None:
                self._remember(exc.version)
            raise

    def _frame(self, index: int, decoded: Decoded) -> Frame:
        return Frame(decoded.image, self.id, index, decoded.pts, decoded.time_base)
