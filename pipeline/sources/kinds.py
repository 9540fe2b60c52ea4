"""Which files of an input are read: images, videos, or both; and the asset that is made of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pipeline.sources.asset import ImageAsset
from pipeline.sources.decode.options import FrameOptions
from pipeline.sources.frames import FramesAsset
from pipeline.sources.scan import VIDEO, VIDEOS, not_an_image
from pipeline.system.media import has_pyav
from pipeline.validation import check_choice

# What can have several pages, according to its extension: an asset is not opened to find out.
PAGED = frozenset((".tif", ".tiff", ".gif", ".apng", ".webp"))


@dataclass(frozen=True, slots=True)
class Kinds:
    """Which kinds of files are read, and how.

    Attributes:
        frames: Which frames of videos; its ``exif`` and ``max_pixels`` apply to images too.
        images: Whether images are read.
        videos: Whether videos are read.
        pages: ``first``: an image has one frame. ``all``: each page of a TIFF and each image of an
            animated GIF, APNG or WebP is a frame.

    Raises:
        ConfigError: ``pages`` is neither.
    """

    frames: FrameOptions
    images: bool = True
    videos: bool = True
    pages: Literal["first", "all"] = "first"

    def __post_init__(self) -> None:
        check_choice("pages", self.pages, ("first", "all"))

    def refusal(self, name: str) -> str | None:
        """Return why a file of this name is not read; ``None`` if it is."""
        reason = not_an_image(name)
        if reason is None:
            return None if self.images else "image"
        if reason == VIDEO and self.videos:
            return None if has_pyav() else "video (needs the extra video)"
        return reason

    def asset(self, asset_id: str, location: str | Path) -> ImageAsset | FramesAsset:
        """Return the asset of a file, whatever its name."""
        dot = asset_id.rfind(".")
        suffix = asset_id[dot:].lower() if dot >= 0 else ""
        if self.videos and (suffix in VIDEOS or not self.images):
            return FramesAsset(asset_id, location, self.frames)
        if self.pages == "all" and suffix in PAGED:
            return FramesAsset(asset_id, location, _of_pages(self.frames))
        frames = self.frames
        return ImageAsset(asset_id, location, exif=frames.exif, max_pixels=frames.max_pixels)


@lru_cache(maxsize=4)
def _of_pages(options: FrameOptions) -> FrameOptions:
    return replace(options, pages=True)
