"""A video, or an image with several pages, as an asset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.errors import DecodeError
from pipeline.protocols import supports
from pipeline.records import Frame
from pipeline.sources.decode.frames import FramesReader, read_frames
from pipeline.sources.decode.options import Decoded, FrameOptions
from pipeline.sources.decode.reading import Version, read_version
from pipeline.sources.tables.table import Row


@dataclass(slots=True)
class FramesAsset:
    """One file with several frames: a video, an animation, or an image with several pages.

    Attributes:
        id: Path relative to the input, ``/`` separators; unique in a run.
        location: Path of the file.
        options: Which frames.
        is_still: False: outputs are numbered by frame, even if there is only one.
        reader: Reads the frames if it is a ``FramesReader``; by default this process does.
        row: Its row in the table that lists it; ``None`` without one.
        size_bytes: Size of the file when it was last read; ``None`` before that.
        mtime_ns: Modification time of that file in nanoseconds since 1970; ``None`` before that.
    """

    id: str
    location: str | Path
    options: FrameOptions
    is_still: bool = False
    reader: Any = field(default=None, repr=False)
    row: Row | None = field(default=None, init=False, repr=False)
    size_bytes: int | None = field(default=None, init=False)
    mtime_ns: int | None = field(default=None, init=False)
    _sha256: str | None = field(default=None, init=False, repr=False)

    @property
    def path(self) -> Path:
        """The file that it is read from."""
        return Path(self.location)

    @property
    def columns(self) -> dict[str, Any] | None:
        """The values of the table that lists it, by column; ``None`` without a table."""
        return None if self.row is None else self.row.columns()

    def __fspath__(self) -> str:
        return os.fspath(self.location)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's content, in hexadecimal digits.

        After the first frame, it is the digest of the file that is being decoded.

        Raises:
            DecodeError: The file cannot be read.
        """
        if self._sha256 is None:
            try:
                self._remember(read_version(self.path))
            except DecodeError as exc:
                exc.asset_id = self.id
                raise
        assert self._sha256 is not None
        return self._sha256

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

    def _remember(self, version: Version) -> None:
        self.size_bytes, self.mtime_ns, self._sha256 = version
