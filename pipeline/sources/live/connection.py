"""One connection to a stream, from which frames are decoded with PyAV until it is lost."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from typing import Any, NamedTuple

from pipeline.errors import DecodeError
from pipeline.sources.decode.options import Decoded, FrameOptions
from pipeline.sources.decode.timestamps import Timestamps
from pipeline.sources.decode.video import FrameConverter, error_text, video_stream
from pipeline.sources.live.address import Address

# What a stream may consist of, and how it may arrive: never from a local file.
_FORMATS = (
    "rtsp,sdp,rtp,mpegts,mov,matroska,flv,live_flv,mpjpeg,mjpeg,h264,hevc,hls,asf,ogg,avi,mpeg,nut,"
    "ivf,aac,v4l2,video4linux2"
)
_PROTOCOLS = "rtsp,rtp,srtp,udp,tcp,tls,http,https,httpproxy,crypto,rtmp,rtmps,srt"
_CLOCKLESS = ("mpjpeg", "mjpeg", "h264", "hevc")  # their timestamps are made up
_MS = Fraction(1, 1000)
_END_S = 0.25  # a recording that ends so close to its stated end is complete


class LostError(Exception):
    """The stream cannot be opened, or does not deliver frames any longer.

    Attributes:
        is_final: Whether another attempt is pointless, unless the stream has worked before.
    """

    def __init__(self, text: str, *, is_final: bool = False) -> None:
        self.is_final = is_final
        super().__init__(text)


class Arrived(NamedTuple):
    """A frame of a stream.

    Attributes:
        decoded: The frame.
        time_s: Its time on the clock of the stream, in seconds.
        wall_s: When it was decoded, in seconds since 1970.
        monotonic_s: The same on the monotonic clock.
        data: The packets since the frame before.
        n_damaged: Number of damaged frames and packets since the frame before.
        is_recording: Whether the stream has an end, so that it can wait.
        connection: Number of the connection, from 0.
    """

    decoded: Decoded
    time_s: Fraction
    wall_s: float
    monotonic_s: float
    data: bytes
    n_damaged: int
    is_recording: bool
    connection: int


@dataclass
class Connection:
    """One connection.

    Attributes:
        address: Where to.
        options: Which frames.
        timeout_s: Seconds to wait for an answer, and for each frame.
        number: Number of the connection, from 0.
        after: Skip the frames of a recording up to this timestamp; ``None`` skips none.
    """

    address: Address
    options: FrameOptions
    timeout_s: float
    number: int = 0
    after: int | None = None
    _data: list[bytes] = field(default_factory=list)
    _n_damaged: int = 0

    def frames(self) -> Iterator[Arrived]:
        """Yield the selected frames as they arrive; return at the end of a recording.

        Raises:
            LostError: Says what happened, without the address.
        """
        import av

        started_s = time.monotonic()
        try:
            container = av.open(
                self.address.url,
                format=self.address.format,
                options=self._open_options(),
                timeout=(self.timeout_s, self.timeout_s),
            )
        except (av.error.FFmpegError, OSError) as exc:
            raise self._lost(exc, started_s) from None  # its text contains the address
        with container:
            try:
                stream = video_stream(container)
                yield from self._selected(container, stream)
            except DecodeError as exc:
                raise LostError(str(exc), is_final=True) from exc

    def _open_options(self) -> dict[str, str]:
        options = {"protocol_whitelist": _PROTOCOLS, "format_whitelist": _FORMATS}
        options["fpsprobesize"] = "0"  # or it waits seconds to measure a rate that nobody needs
        if self.address.url.lower().startswith("rtsp"):
            options |= {"rtsp_flags": "prefer_tcp", "allowed_media_types": "video"}
        return options

    def _selected(self, container: Any, stream: Any) -> Iterator[Arrived]:
        options = self.options
        fps = None if options.fps is None else Fraction(str(options.fps))
        converter = FrameConverter(options, "yuv420p")
        is_recording = bool(container.duration and container.duration > 0)
        first_s: Fraction | None = None
        last_tick, turn = -1, count()
        for frame, pts, base in self._intact(container, stream, is_recording):
            if is_recording and self.after is not None and pts <= self.after:
                continue
            time_s = pts * base
            first_s = time_s if first_s is None else first_s
            if fps is not None:
                tick = int((time_s - first_s) * fps)
                if tick <= last_tick:
                    continue
                last_tick = tick
            if next(turn) % options.stride:
                continue
            decoded = Decoded(converter.bgr(frame), pts, base)
            data, n_damaged = b"".join(self._data), self._n_damaged
            self._data, self._n_damaged = [], 0
            yield Arrived(
                decoded,
                time_s,
                time.time(),
                time.monotonic(),
                data,
                n_damaged,
                is_recording,
                self.number,
            )

    def _intact(
        self, container: Any, stream: Any, is_recording: bool
    ) -> Iterator[tuple[Any, int, Fraction]]:
        """Yield the undamaged frames, with timestamps that increase."""
        opened_s = seen_s = time.monotonic()
        is_timed = container.format.name not in _CLOCKLESS
        is_damaged = has_frames = False
        timestamps, last = Timestamps(), None
        base = stream.time_base if is_timed and stream.time_base else _MS
        for frames, is_broken in self._decoded(container, stream, is_recording):
            if is_broken and has_frames:  # before the first frame, a keyframe may be missing
                is_damaged = True
                self._n_damaged += 1
            now_s = time.monotonic()
            for frame in frames:
                seen_s = now_s
                if frame.is_corrupt:
                    self._n_damaged += has_frames
                    is_damaged = has_frames
                    continue
                if is_damaged and not frame.key_frame:
                    continue
                is_damaged, has_frames = False, True
                pts = timestamps.of(frame.pts, frame.dts) if is_timed else None
                if pts is None:
                    pts = int((now_s - opened_s) / base)
                    pts = pts if last is None else max(pts, last + 1)
                last = pts
                yield frame, pts, base
            if now_s - seen_s > self.timeout_s:
                raise LostError(f"no frame in {self.timeout_s:g} s")

    def _decoded(
        self, container: Any, stream: Any, is_recording: bool
    ) -> Iterator[tuple[list[Any], bool]]:
        """Yield the frames of each packet, and whether it is damaged.

        Raises:
            LostError: There are no more, although the stream has no end.
        """
        import av

        end_s, started_s = Fraction(0), time.monotonic()
        lost: LostError | None = None
        packets = container.demux(stream)
        while True:
            started_s = time.monotonic()
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as exc:
                lost = self._lost(exc, started_s)
                break
            if packet is None:
                break
            if packet.pts is not None:
                end = packet.pts - (stream.start_time or 0) + (packet.duration or 0)
                end_s = max(end_s, end * stream.time_base)
            self._data.append(bytes(packet))
            try:
                yield ([] if packet.is_corrupt else packet.decode()), packet.is_corrupt
            except av.error.FFmpegError:
                yield [], True
        if lost is not None:  # at the end, demux() flushes the decoder itself
            with suppress(av.error.FFmpegError):
                yield stream.codec_context.decode(None), False
        is_complete = is_recording and float(end_s) + _END_S >= container.duration / 1e6
        if not is_complete:
            raise lost or LostError("the server ended the stream")

    def _lost(self, exc: Any, started_s: float) -> LostError:
        import av

        waited_s = time.monotonic() - started_s
        if isinstance(exc, av.error.ExitError) or waited_s >= 0.9 * self.timeout_s:
            return LostError(f"no answer in {self.timeout_s:g} s")
        is_final = isinstance(
            exc,
            (
                av.error.HTTPClientError,
                av.error.ProtocolNotFoundError,
                av.error.DecoderNotFoundError,
                av.error.FileNotFoundError,
                av.error.PermissionError,
            ),
        )
        if exc.errno == errno.EIO:  # FFmpeg's word for the end of a connection
            return LostError("the connection was closed")
        return LostError(error_text(exc), is_final=is_final)
