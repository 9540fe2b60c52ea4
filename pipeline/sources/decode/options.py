"""What to decode of a video or of an image with several pages. Plain values, sent to workers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.validation import (
    check,
    check_choice,
    check_flag,
    check_number,
    check_whole,
    is_number,
)

MAX_PIXELS = 64_000_000


class Decoded(NamedTuple):
    """A decoded frame.

    Attributes:
        image: uint8 ``(H, W, 3)``, BGR, contiguous and writable.
        pts: Presentation timestamp in units of ``time_base``; ``None`` if the file has none.
        time_base: Seconds per unit of ``pts``; ``None`` together with ``pts``.
    """

    image: NDArray[np.uint8]
    pts: int | None = None
    time_base: Fraction | None = None


@dataclass(frozen=True, slots=True)
class FrameOptions:
    """Which frames of a file to decode, and how.

    Attributes:
        pages: Whether the file is an image, of which each page is a frame; else it is a video.
        exif: Apply the rotation that a video states; the EXIF orientation of pages.
        max_pixels: Refuse larger frames.
        stride: Decode every n-th frame of the selected ones.
        fps: At most so many frames per second of the video; ``None``: all.
        start_s: Where to start, in seconds after the first frame; ``None``: there.
        end_s: Where to end, in seconds after the first frame; ``None``: at the end.
        keyframes: Decode only frames that do not depend on others, which is faster.
        hardware: ``auto`` decodes on the GPU if that is possible, ``none`` never.

    Raises:
        ConfigError: A value is invalid.
    """

    pages: bool = False
    exif: bool = True
    max_pixels: int = MAX_PIXELS
    stride: int = 1
    fps: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    keyframes: bool = False
    hardware: str = "auto"

    def __post_init__(self) -> None:
        check_flag("exif", self.exif)
        check_whole("max_pixels", self.max_pixels, 1)
        check_whole("stride", self.stride, 1)
        is_rate = is_number(self.fps) and 0 < (self.fps or 0) < float("inf")
        check("fps", self.fps, self.fps is None or is_rate, "null or a number above 0")
        for option, value in (("start_s", self.start_s), ("end_s", self.end_s)):
            if value is not None:
                check_number(option, value, 0)
        if self.end_s is not None and self.end_s <= (self.start_s or 0):
            raise ConfigError(f"end_s: expected more than start_s, got {self.end_s:g}")
        check_flag("keyframes", self.keyframes)
        check_choice("hardware", self.hardware, ("auto", "none"))

    def as_json(self) -> dict[str, Any]:
        """Return the options as plain values; they are the arguments of an equal object."""
        return asdict(self)
