"""Decodes the frames of a video with PyAV.

Damaged frames are skipped, never filled in. After damage, decoding resumes at the next keyframe,
because the frames before it refer to those that are missing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DecodeError, PartialError, printable
from pipeline.sources.decode.image import check_size
from pipeline.sources.decode.options import Decoded, FrameOptions
from pipeline.sources.decode.timestamps import Timestamps
from pipeline.system.media import INSTALL, has_pyav, open_media

_THREADS = 4
_MISSING_S = 0.25  # a stream that ends so much before its stated duration is cut


def read_video(file: int, options: FrameOptions) -> Iterator[Decoded]:
    """Yield the selected frames of a video, upright, in the order of their timestamps.

    Args:
        file: Descriptor of the file, open for reading.
        options: Which frames, and how.

    Raises:
        DecodeError: It cannot be read, is not a video, or its frames are too large.
        PartialError: A part of it could not be decoded; raised after the last frame.
    """
    if not has_pyav():
        raise DecodeError(f"videos need PyAV, which is not installed. {INSTALL}")
    if not os.fstat(file).st_size:
        raise DecodeError("empty file")
    n_frames = 0
    video = _Video(file, options, on_gpu=options.hardware == "auto", seeks=bool(options.start_s))
    while True:
        try:
            for decoded in islice(video.frames(), n_frames, None):
                n_frames += 1
                yield decoded
        except _Again as exc:
            video = exc.video
            continue
        if video.n_damaged:
            more = f", and {video.n_damaged - 1} more" if video.n_damaged > 1 else ""
            raise PartialError(f"damaged video: {video.damage}{more}; decoded frames: {n_frames}")
        return


class _Again(Exception):
    """The video must be decoded from its start in another way.

    Attributes:
        video: The way.
    """

    def __init__(self, video: _Video) -> None:
        self.video = video
        super().__init__()


@dataclass
class _Video:
    """One pass over a video.

    Attributes:
        file: Descriptor of the file.
        options: Which frames, and how.
        on_gpu: Decode on the GPU if there is one.
        seeks: Start at the keyframe before ``start_s``, instead of at the first frame.
        damage: The first damage, in words.
        n_damaged: Number of packets and frames that are damaged.
    """

    file: int
    options: FrameOptions
    on_gpu: bool
    seeks: bool
    damage: str = ""
    n_damaged: int = 0

    def frames(self) -> Iterator[Decoded]:
        """Yield the frames that the options select."""
        options = self.options
        start_s, end_s = _exact(options.start_s or 0), _exact(options.end_s)
        fps, last_tick, turn = _exact(options.fps), -1, count()
        with _translated(), _opened(self.file, self.on_gpu) as container:
            stream = video_stream(container)
            # `pix_fmt` of a damaged stream, whose format is not known, would crash the process
            plain_format = stream.codec_context.format
            converter = FrameConverter(options, plain_format.name if plain_format else "yuv420p")
            for frame, pts in self._intact(container, stream, start_s):
                time_s = _seconds_of(stream, pts)
                if time_s < start_s:
                    continue
                if end_s is not None and time_s >= end_s:
                    return
                if fps is not None:
                    tick = int((time_s - start_s) * fps)
                    if tick <= last_tick:
                        continue
                    last_tick = tick
                if next(turn) % options.stride == 0:
                    yield Decoded(converter.bgr(frame), pts, stream.time_base)

    def _intact(self, container: Any, stream: Any, start_s: Fraction) -> Iterator[tuple[Any, int]]:
        """Yield the undamaged frames, or at least those from ``start_s``, with timestamps."""
        import av

        codec = stream.codec_context
        if codec.width:  # known before decoding
            check_size((codec.width, codec.height), self.options.max_pixels)
        if self.seeks:
            _seek(container, stream, start_s)
        if self.options.keyframes:
            codec.skip_frame = "NONKEY"
        ticks = round(1 / (stream.average_rate or 25) / stream.time_base)
        pts, end_pts, is_damaged = stream.start_time or 0, None, False
        timestamps = Timestamps()
        for packet in container.demux(stream):
            frames: list[Any] = []
            try:
                if packet.is_corrupt:
                    raise av.error.InvalidDataError(0, "incomplete data")
                frames = packet.decode()
            except av.error.InvalidDataError as exc:
                is_damaged = self._note(error_text(exc), stream, pts)
            for frame in frames:
                stated = timestamps.of(frame.pts, frame.dts)
                pts = pts if stated is None else stated
                if self.seeks and end_pts is None and _seconds_of(stream, pts) > start_s:
                    # containers without an index are searched by guessing
                    raise _Again(replace(self, seeks=False))
                if frame.is_corrupt:
                    is_damaged = self._note("damaged frame", stream, pts)
                elif is_damaged and frame.key_frame:
                    is_damaged = False
                if not is_damaged:
                    yield frame, pts
                pts = end_pts = pts + max(1, frame.duration or ticks)
        if not self.n_damaged and (missing := _missing(self.file, stream, end_pts)):
            self._note(missing, stream, pts)

    def _note(self, text: str, stream: Any, pts: int) -> bool:
        if stream.codec_context.is_hwaccel:  # the GPU may have failed, not the file
            raise _Again(replace(self, on_gpu=False))
        seconds = float(_seconds_of(stream, pts))
        if seconds >= (self.options.start_s or 0):
            self.n_damaged += 1
            self.damage = self.damage or f"{text} after {seconds:.6g} s"
        return True


@dataclass
class FrameConverter:
    """Converts frames of PyAV to BGR, upright.

    Attributes:
        options: Whether to rotate, and the largest size.
        plain_format: Pixel format of a frame that is not on the GPU.
    """

    options: FrameOptions
    plain_format: str
    reformatter: Any = None

    def bgr(self, frame: Any) -> NDArray[np.uint8]:
        """Return the pixels of a frame.

        Raises:
            DecodeError: It is too large.
        """
        from av.video.reformatter import VideoReformatter

        check_size((frame.width, frame.height), self.options.max_pixels)
        if self.reformatter is None:
            self.reformatter = VideoReformatter()
        turn = frame.rotation if self.options.exif else 0  # counterclockwise, in degrees
        if frame.format.name == "cuda":  # so that the same code converts the colors of all frames
            frame = self.reformatter.reformat(frame, format=self.plain_format, threads=1)
        bgr = self.reformatter.reformat(frame, format="bgr24", threads=1).to_ndarray()
        return np.array(np.rot90(bgr, round(turn / 90)), np.uint8, order="C")


@contextmanager
def _translated() -> Iterator[None]:
    import av

    try:
        yield
    except av.error.FFmpegError as exc:
        if exc.errno == errno.ENOMEM:
            raise MemoryError from exc
        raise DecodeError(
            f"not a video that d2run reads, or a damaged one ({error_text(exc)})"
        ) from exc


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def _opened(file: int, on_gpu: bool) -> Any:
    """Open a container, on the GPU if there is one that decodes."""
    import av

    if on_gpu and _has_gpu():
        from av.codec.hwaccel import HWAccel

        try:
            accelerated = HWAccel("cuda", allow_software_fallback=True, is_hw_owned=True)
            return open_media(file, hwaccel=accelerated)
        except (av.error.FFmpegError, OSError):  # without a GPU, it raises instead of falling back
            pass
    return open_media(file)


def video_stream(container: Any) -> Any:
    """Return the video stream of an open container, which is not the cover of a song.

    Raises:
        DecodeError: There is none, or its codec is not supported.
    """
    import av

    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic  # the cover of a song
    ]
    best = container.streams.best("video")
    stream = best if best in streams else next(iter(streams), None)
    if stream is None:
        raise DecodeError("no video stream in it")
    if stream.codec_context is None:
        raise DecodeError("its codec is not supported")
    # with frame threads, errors would be reported late
    stream.thread_type, stream.codec_context.thread_count = "SLICE", _THREADS
    return stream


def _seconds_of(stream: Any, pts: int) -> Fraction:
    """Return the seconds from the start of a video to a timestamp."""
    seconds: Fraction = (pts - (stream.start_time or 0)) * stream.time_base
    return seconds


def _seek(container: Any, stream: Any, start_s: Fraction) -> None:
    import av

    with suppress(av.error.FFmpegError):  # decoded from the start
        target = (stream.start_time or 0) + int(start_s / stream.time_base)
        container.seek(target, stream=stream)


def _missing(file: int, stream: Any, end_pts: int | None) -> str:
    """Return what is missing of a file that ends without an error; empty if nothing is."""
    size = os.fstat(file).st_size
    if any(entry.pos + entry.size > size for entry in stream.index_entries):
        return "the end of the file is missing"
    stated_s = _seconds(stream.metadata.get("DURATION", ""))
    end_s = float((end_pts or 0) * stream.time_base)
    if stated_s is not None and end_s + _MISSING_S < stated_s:
        return f"it should last {stated_s:.6g} s, but ends"
    return ""


def _seconds(text: str) -> float | None:
    """Return the seconds of Matroska's ``HH:MM:SS.fraction``."""
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _exact(value: Any) -> Any:
    return None if value is None else Fraction(str(value))


def error_text(exc: BaseException) -> str:
    """Return what FFmpeg says, without the name of the file or the address."""
    return printable(str(getattr(exc, "strerror", None) or exc))[:200]
