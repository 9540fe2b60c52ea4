"""The default source: picks the source that reads ``input``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ConfigError
from pipeline.redaction import redacted_text
from pipeline.sources.archive import ARCHIVES, UNSUPPORTED, Archive
from pipeline.sources.asset import check_options, user_path
from pipeline.sources.coco_images import CocoImages
from pipeline.sources.decode.options import MAX_PIXELS, FrameOptions
from pipeline.sources.images import Images
from pipeline.sources.kinds import Kinds
from pipeline.sources.live.address import is_stream
from pipeline.sources.manifest import Manifest
from pipeline.sources.remote import Remote
from pipeline.sources.scan import VIDEOS
from pipeline.sources.stream import Stream
from pipeline.system.media import check_pyav

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def auto(
    input: str,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    recursive: bool = True,
    root: str = "",
    pages: Literal["first", "all"] = "first",
    stride: int = 1,
    fps: float | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    keyframes: bool = False,
    hardware: Literal["auto", "none"] = "auto",
    cache_mb: int = 1024,
) -> Images | Manifest | CocoImages | Archive | Remote | Stream:
    """Return the source that reads an input. Whether the input exists is checked by ``check()``.

    Args:
        input: A file, a directory, a glob, a list (``.txt``, ``.csv``, ``.parquet``), or ``-`` for
            standard input, which can contain images and videos; a COCO ``.json``; a ``.zip``,
            ``.tar`` or ``.tar.gz`` of images; an address, such as ``s3://bucket/images/``; or a
            stream, such as ``rtsp://host/path``, or ``0`` for the first camera.
        exif: Apply the EXIF orientation of images, and the rotation of videos.
        max_pixels: Refuse larger images and frames.
        recursive: Include subdirectories.
        root: The directory of the images of a COCO ``.json``.
        pages: See ``Images``.
        stride: See ``Video``, like all that follow.
        fps: At most so many frames per second.
        start_s: Where to start, in seconds.
        end_s: Where to end, in seconds.
        keyframes: Decode only keyframes.
        hardware: Whether to decode on the GPU.
        cache_mb: See ``Remote``.

    Raises:
        ConfigError: No source reads this kind of input, or a video without PyAV.
    """
    text = check_options(input, max_pixels)
    if is_stream(text):
        files_only = {"start_s": start_s, "end_s": end_s, "keyframes": keyframes}
        for option, value in files_only.items():
            if value not in (None, False):
                raise ConfigError(f"{option}: it does not apply to a stream; see source=stream")
        return Stream(text, exif=exif, max_pixels=max_pixels, stride=stride, fps=fps)
    if _URL.match(text):
        return _remote(text, exif, max_pixels, recursive, cache_mb)
    path = user_path(text)
    suffix = "" if _is_folder(path) else path.suffix.lower()
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
    kinds = Kinds(frames, pages=pages)
    if text == "-" or suffix in (".txt", ".csv", ".parquet"):
        return Manifest(text, kinds=kinds)
    if suffix == ".json":
        return CocoImages(text, root, exif=exif, max_pixels=max_pixels)
    if root:
        raise ConfigError(f"root: it applies to a COCO .json, and the input is '{text}'")
    name = path.name.lower() if suffix else ""
    if name.endswith(ARCHIVES):
        return Archive(text, exif=exif, max_pixels=max_pixels)
    if name.endswith(UNSUPPORTED):
        raise ConfigError(
            f"input: '{text}': archives of this format are not supported; use "
            f"{', '.join(ARCHIVES)}, or unpack it"
        )
    if suffix in VIDEOS:
        check_pyav(f"input: '{text}'")
    return Images(text, recursive=recursive, kinds=kinds)


def _remote(address: str, *options: Any) -> Remote:
    name = address.split("?")[0].lower()
    if name.endswith((*VIDEOS, *ARCHIVES, ".txt", ".csv", ".parquet", ".json")):
        raise ConfigError(
            f"input: '{redacted_text(address)}': only images are read from an address; copy this "
            "file to this machine first"
        )
    return Remote(address, *options)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long: the source's check() reports it
        return False
