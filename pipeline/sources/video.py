"""The source for videos on disk: one file, a directory, or a glob."""

from __future__ import annotations

from typing import Literal

from pipeline.sources.decode.options import MAX_PIXELS, FrameOptions
from pipeline.sources.images import Images
from pipeline.sources.kinds import Kinds
from pipeline.system.media import check_pyav


class Video(Images):
    """Lists videos on disk, as ``Images`` lists images. A single file can have any name.

    ``start_s``, ``end_s`` and ``keyframes`` select frames, of which ``fps`` and then ``stride``
    select some. Frames are numbered from 0 after that; ``pts`` and ``time_base`` are those of the
    file, so they identify a frame of the video.

    Args:
        input: A file, a directory, or a glob; see ``Images``.
        exif: Apply the rotation that a video states, so that frames are upright.
        max_pixels: Refuse videos with larger frames.
        recursive: Include the subdirectories of a directory; does not apply to globs.
        stride: Decode every n-th frame.
        fps: Decode at most so many frames per second of the video: the first one of each
            ``1 / fps`` seconds; ``None``: all.
        start_s: Where to start, in seconds after the first frame; ``None``: there.
        end_s: Where to end, in seconds after the first frame; ``None``: at the end.
        keyframes: Decode only keyframes, which do not depend on others; several times faster.
        hardware: ``auto`` decodes on an NVIDIA GPU if there is one; the pixels are the same.
            ``none`` always decodes on the CPU.

    Raises:
        ConfigError: An argument is invalid, or PyAV is not installed.
    """

    def __init__(
        self,
        input: str,
        exif: bool = True,
        max_pixels: int = MAX_PIXELS,
        recursive: bool = True,
        stride: int = 1,
        fps: float | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        keyframes: bool = False,
        hardware: Literal["auto", "none"] = "auto",
    ) -> None:
        frames = FrameOptions(
            exif=exif,
            max_pixels=max_pixels,
            stride=stride,
            fps=fps,
            start_s=start_s,
            end_s=end_s,
            keyframes=keyframes,
            hardware=hardware,
        )
        super().__init__(input, recursive=recursive, kinds=Kinds(frames, images=False))
        check_pyav("source=video")
