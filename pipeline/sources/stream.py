"""The source for live streams: network cameras, video over HTTP, and cameras of this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Literal, NamedTuple

from pipeline.errors import ConfigError, PartialError
from pipeline.records import Frame
from pipeline.sources.asset import check_options
from pipeline.sources.decode.options import MAX_PIXELS, FrameOptions
from pipeline.sources.live.address import address_of, clean_name
from pipeline.sources.live.capture import Capture
from pipeline.sources.live.connection import Arrived, Connection
from pipeline.sources.paths import Origin
from pipeline.system.media import check_pyav
from pipeline.validation import check, check_choice, check_number, check_whole

_POLL_S = 0.1
_DAY_S = 86400.0


class _Mark(NamedTuple):
    """Where a segment starts."""

    time_s: Fraction
    monotonic_s: float
    connection: int

    @classmethod
    def of(cls, arrived: Arrived) -> _Mark:
        return cls(arrived.time_s, arrived.monotonic_s, arrived.connection)


@dataclass(slots=True, eq=False)
class StreamSegment:
    """A few seconds of a stream, from one connection: they succeed or fail together.

    Attributes:
        id: Name of the stream and the time of the first frame, in UTC.
        path: The address without secrets, and the time. There is no such file.
        capture: Receives the stream.
        segment_s: Its length in seconds.
        is_still: False: outputs are numbered by frame.
        size_bytes: Size of its packets.
        mtime_ns: ``None``: there is no file.
        is_open: Whether ``frames()`` has started.
        ended: Set when ``frames()`` has ended.
    """

    id: str
    path: Path
    capture: Capture = field(repr=False)
    segment_s: float
    is_still: bool = False
    size_bytes: int = 0
    mtime_ns: int | None = None
    is_open: bool = field(default=False, init=False)
    ended: Event = field(default_factory=Event, init=False, repr=False)
    _sha256: Any = field(default_factory=hashlib.sha256, init=False, repr=False)

    def status(self) -> tuple[int | None, int | None]:
        """Return that size and modification time are unknown."""
        return None, None

    def fingerprint(self) -> str:
        """Return the SHA-256 of the packets that have been decoded, in hexadecimal digits."""
        digest: str = self._sha256.hexdigest()
        return digest

    def frames(self) -> Iterator[Frame]:
        """Yield the frames as they arrive, numbered from 0; ends with the segment.

        Raises:
            PartialError: Some frames were damaged; raised after the last frame.
        """
        self.is_open = True
        n_frames = n_damaged = 0
        try:
            arrived = self.capture.next_if(lambda _: True)
            start = None if arrived is None else _Mark.of(arrived)
            while arrived is not None and start is not None:
                self._sha256.update(arrived.data)
                self.size_bytes += len(arrived.data)
                n_damaged += arrived.n_damaged
                yield Frame(arrived.decoded.image, self.id, n_frames, *arrived.decoded[1:])
                n_frames += 1
                accepts = partial(self._contains, start, arrived.time_s)
                arrived = self.capture.next_if(accepts, start.connection)
        finally:
            self.ended.set()
        if n_damaged:
            raise PartialError(
                f"damaged stream: {n_damaged} damaged frames or packets; decoded frames: "
                f"{n_frames}",
                asset_id=self.id,
            )

    def close(self) -> None:
        """Stop the stream; a blocked ``frames()`` ends."""
        self.capture.close()

    def _contains(self, start: _Mark, last_s: Fraction, arrived: Arrived) -> bool:
        """Return whether a frame belongs to this segment, whose last one was at ``last_s``."""
        if arrived.connection != start.connection or arrived.time_s < last_s:
            return False
        # the clock of a broken stream may stand still
        is_late = arrived.monotonic_s - start.monotonic_s > 2 * self.segment_s
        is_over = arrived.time_s - start.time_s >= self.segment_s
        return not is_over and (arrived.is_recording or not is_late)


class Stream:
    """A stream as a sequence of segments, which are listed as they arrive.

    Each segment is an asset, so results are durable every ``segment_s`` seconds, and a run of weeks
    needs no more memory than one of minutes. A lost stream is connected again; no segment contains
    frames of two connections. A recording, which states its duration, is read to its end, and no
    frame of it is dropped.

    Args:
        input: An address such as ``rtsp://host/path`` or ``http://host/video.mjpg``, or a camera
            of this machine: ``/dev/video0``, or its number.
        exif: Apply the rotation that a stream states.
        max_pixels: Refuse streams with larger frames.
        stride: Process every n-th frame.
        fps: Process at most so many frames per second of the stream; ``None``: all.
        segment_s: Seconds per asset.
        on_slow: What to do with a live stream that is faster than the model: ``drop`` its oldest
            frames, or ``block`` the server.
        timeout_s: Seconds to wait for an answer of the server, and for each frame.
        retries: Number of attempts in a row to connect again.
        max_backoff_s: The longest pause between two attempts, in seconds.
        duration_s: Stop so many seconds after the first frame; ``None``: at the end of the stream.
        max_frames: Stop after so many frames; ``None``: at the end of the stream.
        name: The first part of the ids; by default made of the address without its secrets.

    Raises:
        ConfigError: An argument is invalid, or PyAV is not installed. Nothing is connected yet.
    """

    def __init__(
        self,
        input: str,
        exif: bool = True,
        max_pixels: int = MAX_PIXELS,
        stride: int = 1,
        fps: float | None = None,
        segment_s: float = 10.0,
        on_slow: Literal["drop", "block"] = "drop",
        timeout_s: float = 10.0,
        retries: int = 10,
        max_backoff_s: float = 30.0,
        duration_s: float | None = None,
        max_frames: int | None = None,
        name: str | None = None,
    ) -> None:
        self.input = check_options(input, max_pixels)
        self.options = FrameOptions(exif=exif, max_pixels=max_pixels, stride=stride, fps=fps)
        check_number("segment_s", segment_s, 1, _DAY_S)
        check_choice("on_slow", on_slow, ("drop", "block"))
        check_number("timeout_s", timeout_s, 0.1, _DAY_S)
        check_whole("retries", retries, 0)
        check_number("max_backoff_s", max_backoff_s, 0.1, _DAY_S)
        if duration_s is not None:
            check_number("duration_s", duration_s, 0.1)
        if max_frames is not None:
            check_whole("max_frames", max_frames, 1)
        self._address = address_of(self.input)
        if name is not None:
            is_name = isinstance(name, str) and bool(name) and clean_name(name.split("/")) == name
            check("name", name, is_name, "letters, digits and ._-, such as door/left")
        check_pyav(f"input: '{self._address.shown}'")
        self.exif, self.max_pixels = exif, max_pixels
        self.name = name or self._address.name
        self.segment_s, self.timeout_s = segment_s, timeout_s
        self._limits: dict[str, Any] = {
            "retries": retries,
            "max_backoff_s": max_backoff_s,
            "drops": on_slow == "drop",
            "duration_s": duration_s,
            "max_frames": max_frames,
        }
        self._capture: Capture | None = None
        self._last_ms = 0

    @property
    def problem(self) -> str:
        """Why the stream ended early; empty if it did not."""
        return self._capture.problem if self._capture is not None else ""

    @property
    def warnings(self) -> list[str]:
        """What was lost because the model is slower than the stream."""
        capture = self._capture
        if capture is None or not capture.n_dropped:
            return []
        return [
            f"{capture.n_dropped} of {capture.n_arrived} frames of '{self._address.shown}' were "
            "dropped, because they arrived faster than they were processed; set source.fps or "
            "source.stride to choose which frames to process"
        ]

    def __iter__(self) -> Iterator[StreamSegment]:
        """Connect, and yield each segment when its first frame has arrived.

        The frames of a segment must be read before, or while, the next one is requested.

        Raises:
            ConfigError: The stream cannot be opened.
        """
        capture = self._capture = Capture(self._connection, self._address.shown, **self._limits)
        capture.start()
        try:
            while (first := capture.first()) is not None:
                segment = self._segment(first, capture)
                yield segment
                while not segment.ended.wait(_POLL_S):
                    if capture.is_closed and not segment.is_open:
                        return
        finally:
            capture.close()
        if capture.problem and not capture.n_arrived:
            raise ConfigError(f"input: cannot read '{self._address.shown}': {capture.problem}")

    def stop(self) -> None:
        """End the iteration after the frames that have arrived. Safe in signal handlers."""
        if self._capture is not None:
            self._capture.stop()

    def close(self) -> None:
        """End the iteration now."""
        if self._capture is not None:
            self._capture.close()

    def origins(self) -> list[Origin]:
        """Return what distinguishes this input from any other, as far as it is no secret."""
        return [Origin(self._address.shown)]

    def _connection(self, number: int, after: int | None) -> Connection:
        return Connection(self._address, self.options, self.timeout_s, number, after)

    def _segment(self, first: Arrived, capture: Capture) -> StreamSegment:
        # ids are unique, even if the clock is set back
        self._last_ms = max(int(first.wall_s * 1000), self._last_ms + 1)
        time = datetime.fromtimestamp(self._last_ms // 1000, timezone.utc)
        name = f"{time:%Y-%m-%dT%H-%M-%S}-{self._last_ms % 1000:03d}Z"
        path = Path(self._address.shown, name)
        return StreamSegment(f"{self.name}/{name}", path, capture, self.segment_s)
