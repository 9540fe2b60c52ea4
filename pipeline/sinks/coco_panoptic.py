"""COCO's panoptic file, for models that return panoptic maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding import read_records
from pipeline.errors import OutputError
from pipeline.records import Categories
from pipeline.sinks.coco_format import coco_image, dump_list
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import replaced


def write_panoptic(path: Path, predictions: Path, categories: Categories) -> None:
    """Replace ``path`` with COCO's panoptic JSON, read from ``predictions`` line by line.

    File names are relative to the directory ``panoptic`` next to ``predictions``, as COCO's tools
    expect. Things and stuff share the category ids of the dataset. If the two overlap, as in
    datasets without ids, stuff ids follow those of the things.

    Raises:
        OutputError: A line is incomplete, or a label map cannot be read.
    """
    stuff_ids = _stuff_ids(categories)
    dump_panoptic(
        path,
        (coco_image(record) for record in _panoptic(predictions)),
        (
            _annotation(record, predictions.parent, categories, stuff_ids)
            for record in _panoptic(predictions)
        ),
        _categories(categories, stuff_ids),
    )


def dump_panoptic(
    path: Path,
    images: Iterable[dict[str, Any]],
    annotations: Iterable[dict[str, Any]],
    categories: Iterable[dict[str, Any]],
) -> None:
    """Replace ``path`` with a COCO file of these entries, written as a stream."""
    with replaced(path) as file:
        file.write(b'{"info": {"description": "Predictions of d2run"}, "licenses": [],\n')
        file.write(b'"images": ')
        dump_list(file, images)
        file.write(b',\n"annotations": ')
        dump_list(file, annotations)
        file.write(b',\n"categories": ')
        dump_list(file, categories)
        file.write(b"}\n")


def segments_in(png: Path) -> dict[int, tuple[int, list[int]]]:
    """Return the area, and x, y, width, height in whole pixels, of each segment of a label map.

    Raises:
        OutputError: The map cannot be read.
    """
    import cv2  # takes 0.1 s, and most commands do not need it

    data = np.zeros(0, np.uint8)
    with suppress(FileNotFoundError), open_to_read(png) as file:
        data = np.frombuffer(file.read(), np.uint8)
    colors = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if colors is None:
        raise OutputError(f"'{png}' cannot be read; run again with the same output to write it")
    # red is the least significant byte
    ids: NDArray[Any] = cv2.cvtColor(colors, cv2.COLOR_BGR2RGBA).view("<u4")[..., 0]
    return _segments(ids & 0xFFFFFF)


def _segments(ids: NDArray[Any]) -> dict[int, tuple[int, list[int]]]:
    """Return the areas and boxes by id, from the runs of equal pixels in each row."""
    width = ids.shape[1]
    flat = ids.ravel()
    begins = np.ones(flat.shape, bool)
    begins[1:] = flat[1:] != flat[:-1]
    begins[::width] = True
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    order = order[flat[starts[order]] != 0]
    if not order.size:
        return {}
    values, starts, ends = flat[starts[order]], starts[order], ends[order]
    firsts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    area = np.add.reduceat(ends - starts, firsts)
    left = np.minimum.reduceat(starts % width, firsts)
    right = np.maximum.reduceat((ends - 1) % width, firsts) + 1
    top = np.minimum.reduceat(starts // width, firsts)
    bottom = np.maximum.reduceat(starts // width, firsts) + 1
    boxes = np.stack([left, top, right - left, bottom - top], axis=1).tolist()
    return dict(zip(values[firsts].tolist(), zip(area.tolist(), boxes, strict=True), strict=True))


def _panoptic(predictions: Path) -> Iterator[dict[str, Any]]:
    return (record for record in read_records(predictions) if "panoptic_seg" in record)


def _stuff_ids(categories: Categories) -> list[int]:
    overlap = set(categories.thing_ids) & set(categories.stuff_ids)
    shift = max(categories.thing_ids) + 1 - min(categories.stuff_ids) if overlap else 0
    return [stuff_id + shift for stuff_id in categories.stuff_ids]


def _annotation(
    record: dict[str, Any], directory: Path, categories: Categories, stuff_ids: list[int]
) -> dict[str, Any]:
    panoptic = record["panoptic_seg"]
    found = segments_in(directory / panoptic["file"])
    infos = []
    for segment in panoptic["segments"]:
        ids = categories.thing_ids if segment["is_thing"] else stuff_ids
        info = {
            "id": segment["id"],
            "category_id": ids[segment["class_id"]],
            "area": segment["area"],
            "bbox": found[segment["id"]][1] if segment["id"] in found else [0, 0, 0, 0],
            "iscrowd": 0,
        }
        if segment.get("score") is not None:
            info["score"] = segment["score"]
        infos.append(info)
    return {
        "image_id": record["image_id"],
        "file_name": panoptic["file"].removeprefix("panoptic/"),
        "segments_info": infos,
    }


def _categories(categories: Categories, stuff_ids: list[int]) -> Iterator[dict[str, Any]]:
    for category_id, name in zip(categories.thing_ids, categories.thing_names, strict=True):
        yield {"id": category_id, "name": name, "isthing": 1}
    for category_id, name in zip(stuff_ids, categories.stuff_names, strict=True):
        yield {"id": category_id, "name": name, "isthing": 0}
