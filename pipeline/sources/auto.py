"""The default source: looks at ``input`` and picks the source for it."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.sources.asset import check_options, user_path
from pipeline.sources.decode.image import MAX_PIXELS
from pipeline.sources.images import Images
from pipeline.sources.manifest import Manifest
from pipeline.sources.scan import VIDEOS

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def auto(
    input: str, exif: bool = True, max_pixels: int = MAX_PIXELS, recursive: bool = True
) -> Images | Manifest:
    """Return the source that reads this input; its ``check()`` says whether it is there.

    Args:
        input: A file, a folder, a glob, a list (``.txt``, ``.csv``), or ``-`` for standard input.
        exif: Turn pictures upright as their EXIF orientation says.
        max_pixels: Refuse larger pictures.
        recursive: Go into sub-folders.

    Raises:
        ConfigError: No source reads such an input: a URL, a video, a COCO ``.json``.
    """
    text = check_options(input, max_pixels)
    if url := _URL.match(text):  # the rest of it may hold a password
        raise ConfigError(f"input: {url[1]}:// is not read; give files on this machine")
    path = user_path(text)
    suffix = "" if _is_folder(path) else path.suffix.lower()
    if text == "-" or suffix in (".txt", ".csv"):
        return Manifest(text, exif=exif, max_pixels=max_pixels)
    if suffix == ".json":
        raise ConfigError(
            f"input: '{text}': this version does not read COCO .json yet; list its images in a "
            ".txt, a path a line"
        )
    if suffix in VIDEOS:
        raise ConfigError(
            f"input: '{text}': this version does not read videos yet; extract its frames into a "
            "folder"
        )
    return Images(text, exif=exif, max_pixels=max_pixels, recursive=recursive)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # too long a name: the source's check() says so
        return False
