"""Videos made by the tests: every frame shows its number, and which way is up."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

NTSC = Fraction(30000, 1001)
MS = Fraction(1, 1000)


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """Return a frame, (width, height) px, BGR: red on top, and as bright as its number says."""
    width, height = size
    image = np.full((height, width, 3), 40 + 7 * (number % 30), np.uint8)
    image[: height // 4] = 0, 0, 255
    return image


def number_of(image: np.ndarray) -> int:
    """Return the number that an upright frame shows."""
    mean = float(image[image.shape[0] // 2 :].mean())
    return round((mean - 37.4) / 7)  # each conversion of colors by FFmpeg loses up to 3 levels


def write_video(
    path: Path,
    n: int = 12,
    *,
    size: tuple[int, int] = (64, 48),
    rate: Fraction = NTSC,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    rotation: int = 0,
    audio: bool = False,
    gop: int = 5,
    bf: int = 2,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    index_first: bool = True,
) -> Path:
    """Write a video.

    Args:
        path: The file; its extension selects the container.
        n: Number of frames.
        size: (width, height) in px.
        rate: Frames per second.
        pts: Timestamps in units of ``time_base``; by default constant rate.
        time_base: Seconds per unit; by default one frame.
        rotation: By how many degrees a player turns the frames counterclockwise.
        audio: Add a tone, as long as the video.
        gop: Frames from one keyframe to the next.
        bf: Largest number of consecutive B frames.
        codec: FFmpeg's name of the encoder.
        pix_fmt: FFmpeg's name of the pixel format.
        index_first: Whether an MP4 begins with its index, so that it can be read when it is cut.
    """
    is_mp4 = path.suffix in (".mp4", ".mov")
    options = {"movflags": "faststart"} if is_mp4 and index_first else {}
    base = time_base or 1 / rate
    with av.open(str(path), "w", options=options) as container:
        encoder = {"g": str(gop), "bf": str(bf), "threads": "1", "sc_threshold": "0"}
        stream: Any = container.add_stream(codec, rate=rate, options=encoder)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        sound: Any = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        for i in range(n):
            image = np.ascontiguousarray(
                np.rot90(picture(i, turned(size, rotation)), -rotation // 90)
            )
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = (pts[i] if pts else i), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            samples = np.sin(np.arange(int(8000 * n / rate)) / 8) * 8000
            tone = av.AudioFrame.from_ndarray(samples.astype(np.int16)[None], "s16", "mono")
            tone.rate, tone.pts = 8000, 0
            container.mux(sound.encode(tone))
            container.mux(sound.encode(None))
    return path


def turned(size: tuple[int, int], rotation: int) -> tuple[int, int]:
    return (size[1], size[0]) if rotation % 180 else size


def cut(path: Path, share: float, to: Path | None = None) -> Path:
    """Keep only the first part of a file."""
    data = path.read_bytes()
    to = to or path
    to.write_bytes(data[: int(len(data) * share)])
    return to


def packets(path: Path) -> list[tuple[int, int]]:
    """Return where the frames of an MP4 are, (offset, size) in decoding order."""
    with av.open(str(path)) as container:
        return [(entry.pos, entry.size) for entry in container.streams.video[0].index_entries]
