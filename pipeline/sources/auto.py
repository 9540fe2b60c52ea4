"""The default source: picks the source that reads ``input``."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.sources.archive import ARCHIVES, UNSUPPORTED, Archive
from pipeline.sources.asset import check_options, user_path
from pipeline.sources.coco_images import CocoImages
from pipeline.sources.decode.image import MAX_PIXELS
from pipeline.sources.images import Images
from pipeline.sources.manifest import Manifest
from pipeline.sources.scan import VIDEOS

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def auto(
    input: str,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    recursive: bool = True,
    root: str = "",
) -> Images | Manifest | CocoImages | Archive:
    """Return the source that reads an input. Whether the input exists is checked by ``check()``.

    Args:
        input: A file, a directory, a glob, a list (``.txt``, ``.csv``), a COCO ``.json``, a
            ``.zip``, ``.tar`` or ``.tar.gz``, or ``-`` for standard input.
        exif: Apply the EXIF orientation.
        max_pixels: Refuse larger images.
        recursive: Include subdirectories.
        root: The directory of the images of a COCO ``.json``.

    Raises:
        ConfigError: No source reads this kind of input: a URL, a video.
    """
    text = check_options(input, max_pixels)
    if url := _URL.match(text):  # the rest of the URL may contain a password
        raise ConfigError(f"input: {url[1]}:// is not supported; use files on this machine")
    path = user_path(text)
    suffix = "" if _is_folder(path) else path.suffix.lower()
    if text == "-" or suffix in (".txt", ".csv"):
        return Manifest(text, exif=exif, max_pixels=max_pixels)
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
        raise ConfigError(
            f"input: '{text}': videos are not supported; extract the frames into a directory"
        )
    return Images(text, exif=exif, max_pixels=max_pixels, recursive=recursive)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long: the source's check() reports it
        return False
