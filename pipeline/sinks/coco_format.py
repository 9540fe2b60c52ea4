"""What COCO's files have in common."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, BinaryIO


def coco_image(record: dict[str, Any]) -> dict[str, Any]:
    """Return the COCO image of a line; a frame of a video has ``frame`` and ``time_s`` too."""
    image = {"id": record["image_id"], "file_name": record["asset"]}
    if "asset_b64" in record:
        image["file_name_b64"] = record["asset_b64"]
    image |= {"width": record["width"], "height": record["height"]}
    if record["time_s"] is not None:
        image |= {"frame": record["frame"], "time_s": record["time_s"]}
    return image


def dump_list(file: BinaryIO, entries: Iterable[dict[str, Any]]) -> None:
    """Write a JSON list, one entry a line, without holding it."""
    file.write(b"[")
    for i, entry in enumerate(entries):
        # ASCII, since pycocotools opens the file in whatever encoding the locale has
        file.write((",\n" if i else "\n").encode() + json.dumps(entry).encode("ascii"))
    file.write(b"]")
