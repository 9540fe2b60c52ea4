"""Reads the frames of a video, or the pages of an image, with the digest of the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from pipeline.errors import DecodeError, PartialError
from pipeline.sources.decode.image import decode_pages
from pipeline.sources.decode.options import Decoded, FrameOptions
from pipeline.sources.decode.reading import Progress, Version, opened, read_bytes, read_version
from pipeline.sources.decode.video import read_video
from pipeline.system.os_errors import describe_os_error

OnVersion = Callable[[Version], object]


@runtime_checkable
class FramesReader(Protocol):
    """Reads the frames of files elsewhere, such as in a worker process."""

    def frames(self, path: Path, options: FrameOptions, on_version: OnVersion) -> Iterator[Decoded]:
        """Yield the frames, as ``read_frames`` does."""
        ...


def read_frames(
    path: Path,
    options: FrameOptions,
    on_version: OnVersion,
    progress: Progress = lambda: None,
) -> Iterator[Decoded]:
    """Read a file in this process, and yield its frames. Few of them are in memory at a time.

    Args:
        path: A regular file, or a link to one.
        options: Which frames.
        on_version: Called with the version of the file, before the first frame.
        progress: Called while the digest is computed.

    Raises:
        DecodeError: It cannot be read, changes meanwhile, or is not a video or an image.
        PartialError: A part of a video could not be decoded; raised after the last frame.
    """
    if options.pages:
        data, version = read_bytes(path, max_pixels=options.max_pixels)
        on_version(version)
        yield from decode_pages(data, options)
        return
    version = read_version(path, progress=progress)
    on_version(version)
    try:
        with opened(path) as (file, _):
            partial = None
            try:
                yield from read_video(file.fileno(), options)
            except PartialError as exc:
                partial = exc
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != version[:2]:
                raise DecodeError("changed while it was read")
            if partial is not None:
                raise partial
    except OSError as exc:
        raise DecodeError(describe_os_error(exc)) from exc
