"""Reads a ground truth: a COCO dataset with annotations."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from pipeline.errors import ConfigError
from pipeline.system.os_errors import describe_os_error


@dataclass(frozen=True)
class Truth:
    """A ground truth.

    Attributes:
        path: The file.
        sha256: Of the file, in hexadecimal.
        images: COCO's images.
        categories: COCO's categories.
        annotations: COCO's annotations, complete: ``id`` from 1, ``area``, ``iscrowd``, and
            ``num_keypoints`` if they have keypoints. Empty for a panoptic ground truth.
        segments: The annotations of a panoptic ground truth; otherwise empty.
    """

    path: Path
    sha256: str
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    segments: list[dict[str, Any]]


def read_truth(path: Path) -> Truth:
    """Read a COCO ``.json``.

    Raises:
        ConfigError: It cannot be read, or is not a dataset of COCO.
    """
    try:
        content = path.read_bytes()
        data = json.loads(content)
    except (OSError, ValueError, RecursionError) as exc:
        reason = describe_os_error(exc) if isinstance(exc, OSError) else f"not JSON ({exc})"
        raise ConfigError(f"ground_truth: cannot read '{path}': {reason}") from exc
    lists = {}
    for key, needed in (
        ("images", ("id", "file_name")),
        ("categories", ("id", "name")),
        ("annotations", ("image_id",)),
    ):
        found = data.get(key) if isinstance(data, dict) else None
        if not isinstance(found, list):
            raise ConfigError(f"ground_truth: '{path}' is not a COCO dataset: it has no '{key}'")
        for i, entry in enumerate(found):
            for name in needed:
                if not isinstance(entry, dict) or name not in entry:
                    raise ConfigError(f"ground_truth: '{path}': {key}[{i}] has no '{name}'")
        lists[key] = found
    _refuse_duplicates(path, lists)
    annotations = lists["annotations"]
    is_panoptic = bool(annotations) and all("segments_info" in entry for entry in annotations)
    sizes = {image["id"]: image for image in lists["images"]}
    return Truth(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        images=lists["images"],
        categories=lists["categories"],
        annotations=[]
        if is_panoptic
        else [_complete(path, i, each, sizes) for i, each in enumerate(annotations)],
        segments=annotations if is_panoptic else [],
    )


def _refuse_duplicates(path: Path, lists: dict[str, list[dict[str, Any]]]) -> None:
    for key, name in (("images", "id"), ("categories", "id"), ("categories", "name")):
        seen = set()
        for entry in lists[key]:
            if entry[name] in seen:
                raise ConfigError(
                    f"ground_truth: '{path}': two {key} have the {name} {entry[name]!r}"
                )
            seen.add(entry[name])


def _complete(
    path: Path, i: int, given: dict[str, Any], images: dict[Any, dict[str, Any]]
) -> dict[str, Any]:
    """Return an annotation with the keys that evaluation needs.

    Ids are replaced, because 0 means "no match" to pycocotools, and some tools write duplicates.
    """
    where = f"ground_truth: '{path}': annotations[{i}]"
    image = images.get(given["image_id"])
    if image is None:
        raise ConfigError(f"{where}: there is no image with the id {given['image_id']!r}")
    if "category_id" not in given:
        raise ConfigError(f"{where} has no 'category_id'")
    mask = _rle(where, given.get("segmentation"), image)
    box = given.get("bbox")
    if not box:
        if mask is None:
            raise ConfigError(f"{where} has neither 'bbox' nor 'segmentation'")
        box = coco_mask.toBbox(mask).tolist()
    if len(box) != 4:
        raise ConfigError(f"{where}: expected 'bbox' to be x, y, width, height, got {box!r:.60}")
    area = given.get("area")
    if area is None:
        area = float(coco_mask.area(mask)) if mask is not None else float(box[2] * box[3])
    annotation = {
        "id": i + 1,
        "image_id": given["image_id"],
        "category_id": given["category_id"],
        "bbox": box,
        "area": area,
        "iscrowd": int(given.get("iscrowd") or 0),
    }
    if mask is not None:
        annotation["segmentation"] = mask
    if given.get("keypoints"):
        points = given["keypoints"]
        labelled = sum(visibility > 0 for visibility in points[2::3])
        annotation |= {"keypoints": points, "num_keypoints": given.get("num_keypoints", labelled)}
    return annotation


def _rle(where: str, given: Any, image: dict[str, Any]) -> dict[str, Any] | None:
    """Return a mask as compressed RLE, as pycocotools' ``annToRLE``; ``None`` if there is none."""
    if not given:
        return None
    try:
        if isinstance(given, list):
            size = image["height"], image["width"]
            rle: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(given, *size))
        elif isinstance(given["counts"], list):
            rle = coco_mask.frPyObjects(given, *given["size"])
        else:
            rle = {"size": list(given["size"]), "counts": given["counts"]}
            coco_mask.area(rle)  # raises if it is damaged
    except Exception as exc:  # pycocotools raises whatever its C code meets
        raise ConfigError(f"{where}: 'segmentation' cannot be read ({exc})") from exc
    counts = rle["counts"]
    return {"size": rle["size"], "counts": counts.decode() if isinstance(counts, bytes) else counts}
