"""Encodes the frames of one segment as H.264 that browsers play. The same frames, the same bytes.

A segment is a closed group of pictures without B frames. So it depends on no other segment, can be
cut after any frame, and the order of its packets is that of its frames.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_THREADS = 4  # x264's output depends on the number of threads, so it must not be that of the cores
_BT709 = 1  # matrix, primaries and transfer function
_LIMITED = 1  # the range of luminance that all players expect


@dataclass(frozen=True, slots=True)
class Settings:
    """What determines the encoded bytes, apart from the frames.

    Attributes:
        width: Width in px, even.
        height: Height in px, even.
        time_base: Seconds per unit of the timestamps, as numerator and denominator.
        frames: Number of frames per segment.
        crf: x264's quality: 0 to 51, lower is better.
        preset: x264's preset: slower ones make smaller files.
    """

    width: int
    height: int
    time_base: tuple[int, int]
    frames: int
    crf: int
    preset: str

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Settings:
        """Return the settings of which these are the plain values."""
        numerator, denominator = values["time_base"]
        return cls(**values | {"time_base": (numerator, denominator)})

    def as_json(self) -> dict[str, Any]:
        """Return the settings as plain values, with lists instead of tuples."""
        return asdict(self) | {"time_base": list(self.time_base)}

    def apply(self, context: Any) -> None:
        """Apply the settings to a codec context of PyAV that is not open yet."""
        context.width, context.height, context.pix_fmt = self.width, self.height, "yuv420p"
        context.time_base = Fraction(*self.time_base)
        context.framerate = Fraction(25)  # nominal: the timestamps count
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        context.gop_size, context.max_b_frames = self.frames, 0
        context.thread_count = _THREADS
        context.options = {
            "preset": self.preset,
            "crf": str(self.crf),
            "x264-params": f"keyint={self.frames}:scenecut=0:open-gop=0",
        }


class Encoded(NamedTuple):
    """A packet: one encoded frame.

    Attributes:
        pts: Timestamp of the frame.
        is_key: Whether it is the first frame of a group of pictures.
        data: The H.264 units.
    """

    pts: int
    is_key: bool
    data: bytes


class Encoder:
    """Encodes the frames of a segment.

    Args:
        settings: The size, the time base and the quality.
    """

    def __init__(self, settings: Settings) -> None:
        import av
        from av.codec.context import Flags

        self._time_base = Fraction(*settings.time_base)
        self._context: Any = av.CodecContext.create("libx264", "w")
        settings.apply(self._context)
        self._context.flags |= Flags.global_header  # parameters are stored once, in the container
        self._converter: Any = None

    def encode(self, image: NDArray[np.uint8], pts: int) -> list[Encoded]:
        """Encode a frame; return the packets that are ready, of this frame or of earlier ones.

        Args:
            image: uint8 ``(height, width, 3)``, BGR.
            pts: Its timestamp, higher than that of the frame before.
        """
        import av
        from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

        self._converter = self._converter or VideoReformatter()
        frame: Any = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame = self._converter.reformat(
            frame,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        frame.pts, frame.time_base = pts, self._time_base
        return _packets(self._context.encode(frame))

    def finish(self) -> list[Encoded]:
        """Return the remaining packets."""
        return _packets(self._context.encode(None))


def _packets(packets: list[Any]) -> list[Encoded]:
    return [Encoded(packet.pts, packet.is_keyframe, bytes(packet)) for packet in packets]
