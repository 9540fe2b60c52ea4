"""Parts that all COCO files share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np


def coco_image(record: dict[str, Any]) -> dict[str, Any]:
    """Return the COCO image of a line; for a frame of a video with ``frame`` and ``time_s``."""
    image = {"id": record["image_id"], "file_name": record["asset"]}
    if "asset_b64" in record:
        image["file_name_b64"] = record["asset_b64"]
    image |= {"width": record["width"], "height": record["height"]}
    if record["time_s"] is not None:
        image |= {"frame": record["frame"], "time_s": record["time_s"]}
    return image


def at_least(record: dict[str, Any], min_score: float) -> dict[str, Any]:
    """Return a line without instances of a lower score, compared as float32.

    With a ``min_score`` above 0, instances whose score is not finite are dropped too.
    """
    if not min_score:
        return record
    lowest = np.float32(min_score)
    kept = [
        instance
        for instance in record["instances"]
        if instance["score"] is not None and np.float32(instance["score"]) >= lowest
    ]
    return record | {"instances": kept}


def dump_list(file: BinaryIO, entries: Iterable[dict[str, Any]]) -> None:
    """Write a JSON list, one entry per line, as a stream."""
    file.write(b"[")
    for i, entry in enumerate(entries):
        # ASCII, because pycocotools opens the file in the locale's encoding
        file.write((",\n" if i else "\n").encode() + json.dumps(entry).encode("ascii"))
    file.write(b"]")
