"""Links from the page to other files of the run directory."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from pipeline.system.files import output_name

_SUFFIXES = {"overlay": ".jpg", "video": ".mp4"}


def link(directory: Path, folder: str, asset_id: str, frame: int | None = None) -> str | None:
    """Return the relative URL of what a sink wrote for a frame; ``None`` if it wrote nothing.

    Args:
        directory: The run directory.
        folder: ``overlay`` or ``video``.
        asset_id: The asset.
        frame: Index of the frame; ``None`` for a still or a whole video.
    """
    name = f"{folder}/{output_name(asset_id, _SUFFIXES[folder], frame)}"
    return quote(os.fsencode(name)) if (directory / name).is_file() else None
