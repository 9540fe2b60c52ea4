"""Parts that all COCO files share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, BinaryIO


def coco_image(record: dict[str, Any]) -> dict[str, Any]:
    """Return the COCO image of a line; for a frame of a video with ``frame`` and ``time_s``.

    Values of the input, such as the columns of a table, are in ``columns``.
    """
    image = {"id": record["image_id"], "file_name": record["asset"]}
    if "asset_b64" in record:
        image["file_name_b64"] = record["asset_b64"]
    image |= {"width": record["width"], "height": record["height"]}
    if record["time_s"] is not None:
        image |= {"frame": record["frame"], "time_s": record["time_s"]}
    if "columns" in record:
        image["columns"] = record["columns"]
    return image


def dump_list(file: BinaryIO, entries: Iterable[dict[str, Any]]) -> None:
    """Write a JSON list, one entry per line, as a stream."""
    file.write(b"[")
    for i, entry in enumerate(entries):
        # ASCII, because pycocotools opens the file in the locale's encoding
        file.write((",\n" if i else "\n").encode() + json.dumps(entry).encode("ascii"))
    file.write(b"]")
