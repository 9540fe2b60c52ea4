"""Joins segments to an MP4 file, with the sound of the source, by copying packets.

``python -m pipeline.sinks.mp4.join`` does it in a process of its own, because the source is a file
of a stranger: a container that crashes FFmpeg costs this one output.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.sinks.mp4.encoder import Encoded, Settings
from pipeline.sinks.mp4.segments import Segment
from pipeline.system.media import media_name, open_media

# The same input, the same bytes: no version, no date. The index comes first, so that a browser can
# play the file while it loads.
_OPTIONS = {"movflags": "faststart", "fflags": "+bitexact"}
_MIN_TICKS_PER_S = 10_000  # of the time at which a stream starts; FFmpeg's own 1000 round it
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PRIMING_S = Fraction(1, 10)  # decoders of sound need some samples before the first one
_Sound = Iterator[tuple[Fraction, Any]]


@dataclass(slots=True)
class Times:
    """When the streams of a source start and end.

    Attributes:
        start_s: Start of its first stream, in seconds.
        first_s: Time of the first frame of its video.
        last_s: Time of the last frame of its video.
        last_duration_s: Duration of that frame; 0 if it is not known.
    """

    start_s: Fraction = Fraction(0)
    first_s: Fraction = Fraction(0)
    last_s: Fraction = Fraction(0)
    last_duration_s: Fraction = Fraction(0)


@dataclass(slots=True)
class Source:
    """The file that the frames come from: its sound, and the shape of its pixels.

    Attributes:
        file: Its descriptor.
        times: When its streams start and end.
        aspect: Width of a pixel divided by its height.
        size: Width and height of the stored frames, in px.
        sound: Indices of the streams with sound that MP4 can hold.
        refused: Codecs of the other streams with sound.
    """

    file: int
    times: Times = field(default_factory=Times)
    aspect: Fraction = Fraction(1)
    size: tuple[int, int] = (0, 0)
    sound: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def examine(self, holds: frozenset[str]) -> bool:
        """Read the headers of all packets; return False if it is not a video.

        Args:
            holds: The codecs that MP4 can hold.
        """
        import av

        try:
            container = open_media(self.file)
        except av.error.FFmpegError:  # such as an animated image
            return False
        with container:
            video = container.streams.best("video")
            if video is None:
                return False
            for stream in container.streams.audio:
                codec = stream.codec_context
                if codec is not None and codec.codec.canonical_name in holds:
                    self.sound.append(stream.index)
                else:
                    self.refused.append(codec.codec.canonical_name if codec else "unknown")
            used = [video, *(container.streams[index] for index in self.sound)]
            starts = [
                each.start_time * each.time_base for each in used if each.start_time is not None
            ]
            self.aspect = video.sample_aspect_ratio or Fraction(1)
            self.size = video.codec_context.width, video.codec_context.height
            last = first = None
            for packet in _readable(container, [video]):
                if packet.pts is not None:
                    first = packet.pts if first is None else min(first, packet.pts)
                    last = max(last or (packet.pts, 0), (packet.pts, packet.duration or 0))
            base = video.time_base
            pts, duration = last or (0, 0)
            first_s = (first or 0) * base
            self.times = Times(min([*starts, first_s]), first_s, pts * base, duration * base)
        return True


@dataclass(slots=True)
class Join:
    """One MP4 file.

    Attributes:
        output: Descriptor of the file, open for writing.
        settings: Of the segments.
        segments: The video; its timestamps increase.
        source: The file that the frames come from; ``None`` if it is not a file.
    """

    output: int
    settings: Settings
    segments: list[Segment]
    source: Source | None = None

    def run(self) -> None:
        """Write the file.

        Timestamps are those of the source, minus its start; or minus that of the first frame if the
        segments start later. Sound is limited to the time of the frames.
        """
        import av

        base = Fraction(*self.settings.time_base)
        with ExitStack() as stack:
            options = _OPTIONS | {"movie_timescale": str(_ticks_per_s(base))}
            mp4: Any = av.open(media_name(self.output), "w", format="mp4", options=options)
            stack.enter_context(mp4)
            times, sound, container = Times(), list[int](), None
            if self.source is not None and self.source.examine(frozenset(mp4.supported_codecs)):
                times, sound = self.source.times, self.source.sound
                container = stack.enter_context(open_media(self.source.file))
            packets = _with_next(packet for each in self.segments for packet in each.packets())
            first = next(packets)
            first_s = first[0].pts * base
            is_cut = first_s > times.first_s  # frames at the start were not processed
            offset_s = first_s if is_cut else times.start_s
            video = mp4.add_stream("libx264")
            self.settings.apply(video.codec_context)
            video.codec_context.sample_aspect_ratio = self._aspect()
            heard: _Sound = iter(())
            if container is not None and sound:
                copies = {
                    index: mp4.add_stream_from_template(container.streams[index]) for index in sound
                }
                heard = _sound(
                    container, copies, offset_s, first_s - _PRIMING_S if is_cut else None
                )
            waiting = next(heard, None)
            gap = longest = 1
            for packet, ahead in chain([first], packets):
                if ahead is not None:
                    gap = ahead.pts - packet.pts
                    longest = max(longest, gap)
                while waiting is not None and waiting[0] <= packet.pts * base:
                    mp4.mux(waiting[1])
                    waiting = next(heard, None)
                if ahead is None and packet.pts * base >= times.last_s and times.last_duration_s:
                    gap = round(times.last_duration_s / base)
                mp4.mux(_packet(packet, video, base, offset_s, gap))
            # if only a part of the source was processed, the sound ends with the frames
            last_s = packet.pts * base
            is_whole = last_s + 2 * longest * base >= times.last_s
            while waiting is not None and (is_whole or waiting[0] < last_s + gap * base):
                mp4.mux(waiting[1])
                waiting = next(heard, None)

    def _aspect(self) -> Fraction:
        if self.source is None or not self.source.size[0]:
            return Fraction(1)
        width, height = self.source.size
        is_turned = (width > height) != (self.settings.width > self.settings.height)
        return 1 / self.source.aspect if is_turned else self.source.aspect


def _ticks_per_s(base: Fraction) -> int:
    """Return how fine the start of a stream is stated, so that a timestamp in ``base`` is exact."""
    return base.denominator * -(-_MIN_TICKS_PER_S // base.denominator)


def _with_next(packets: Iterable[Encoded]) -> Iterator[tuple[Encoded, Encoded | None]]:
    """Yield each packet, and the one after it."""
    before: Encoded | None = None
    for packet in packets:
        if before is not None:
            yield before, packet
        before = packet
    if before is not None:
        yield before, None


def _packet(packet: Encoded, stream: Any, base: Fraction, offset_s: Fraction, duration: int) -> Any:
    import av

    copy = av.Packet(packet.data)
    copy.stream, copy.time_base = stream, base
    copy.pts = copy.dts = packet.pts - round(offset_s / base)
    copy.duration, copy.is_keyframe = duration, packet.is_key
    return copy


def _sound(
    container: Any, copies: dict[int, Any], offset_s: Fraction, from_s: Fraction | None
) -> _Sound:
    """Yield the packets of the sound with their times in the source, ready for the new file."""
    streams = [container.streams[index] for index in copies]
    last: dict[int, int] = {}
    for packet in _readable(container, streams):
        index, base = packet.stream.index, packet.time_base
        if packet.pts is None or packet.dts is None:
            continue
        at_s = packet.pts * base
        if from_s is not None and at_s < from_s:
            continue
        shift = round(offset_s / base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        if packet.dts <= last.get(index, packet.dts - 1):  # a damaged source
            continue
        last[index] = packet.dts
        packet.stream = copies[index]
        yield at_s, packet


def _readable(container: Any, streams: list[Any]) -> Iterator[Any]:
    """Yield the packets up to the first that cannot be read."""
    import av

    with suppress(av.error.FFmpegError):
        for packet in container.demux(streams):
            if packet.size and not packet.is_corrupt:
                yield packet


def main() -> None:
    """Join what the JSON on standard input says; print the codecs of the sound that is omitted."""
    request = json.load(sys.stdin)
    settings = Settings.of_json(request["settings"])
    segments = [Segment(Path(path), (), n_frames) for path, n_frames in request["segments"]]
    source = None if request["source"] is None else Source(request["source"])
    answer: dict[str, Any] = {}
    try:
        Join(request["output"], settings, segments, source).run()
        _check_complete(request["output"], sum(each.n_frames for each in segments))
        answer["refused"] = source.refused if source else []
    except Exception as exc:  # those of PyAV have a number too
        number = getattr(exc, "errno", None)
        if number not in _FULL:
            raise
        answer["errno"] = number
    print(json.dumps(answer))  # noqa: T201


def _check_complete(output: int, n_frames: int) -> None:
    """Check that the file holds all frames: FFmpeg does not report every failed write.

    Raises:
        OSError: It does not.
    """
    with open_media(output) as container:
        entries = container.streams.video[0].index_entries
        size = os.fstat(output).st_size
        if len(entries) != n_frames or any(each.pos + each.size > size for each in entries):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


if __name__ == "__main__":
    main()
