"""The columns of tables: their names, their types, and the rows of a frame."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

Kind = Literal["bool", "int", "float", "float32", "text", "keypoints"]

_FRAME: dict[str, Kind] = {
    "asset": "text",
    "asset_b64": "text",
    "frame": "int",
    "time_s": "float",
    "pts": "int",
    "time_base": "text",
    "width": "int",
    "height": "int",
    "image_id": "int",
}
_INSTANCE: dict[str, Kind] = {
    "instance": "int",
    "class_id": "int",
    "class_name": "text",
    "score": "float32",
    "x1": "float32",
    "y1": "float32",
    "x2": "float32",
    "y2": "float32",
    "area_px": "float",
    "mask": "text",
    "keypoints": "keypoints",
    "track_id": "int",
}
_COUNT = "instances"  # of a frame
_KNOWN_OF_FRAME = {*_FRAME, "instances", "sem_seg", "panoptic_seg"}
_KNOWN_OF_INSTANCE = {"box", "score", "class_id", "class_name", "mask", "keypoints", "track_id"}


@dataclass(frozen=True)
class Schema:
    """The columns of the two tables of a run: instances, and frames.

    Columns that all runs have come first, whether a model fills them or not, so that the tables of
    several runs can be read together. Then follow the columns that stages add to instances
    (``Predictions.extra``), and those that a source adds to its inputs. A name that is taken gets
    the prefix ``extra_``.

    Attributes:
        instances: Types of the columns of instances, by name.
        frames: Types of the columns of frames, by name.
        of_instances: Keys of the instances of a line that are columns, with their types.
        of_frames: Keys of a line that are columns, with their types.
        min_score: Lowest score of the instances, in [0, 1].
    """

    instances: Mapping[str, Kind]
    frames: Mapping[str, Kind]
    of_instances: Mapping[str, Kind]
    of_frames: Mapping[str, Kind]
    min_score: float = 0.0

    def frame_row(self, record: Mapping[str, Any]) -> list[Any]:
        """Return the row of a line in the table of frames; the last fixed column is a count."""
        count = sum(1 for _ in self._kept(record))
        return [*_frame_values(record), count, *self._added(record)]

    def instance_rows(self, record: Mapping[str, Any]) -> Iterator[list[Any]]:
        """Yield the rows of a line in the table of instances.

        Values are ``None``, or of the column's kind: Python's own types; keypoints are lists of
        x, y, score.
        """
        of_frame, added = _frame_values(record), self._added(record)
        for position, instance in self._kept(record):
            mine = [_typed(instance.get(key), kind) for key, kind in self.of_instances.items()]
            yield [*of_frame, *_instance_values(position, instance), *mine, *added]

    def _kept(self, record: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        lowest = np.float32(self.min_score)
        for position, instance in enumerate(record["instances"]):
            score = instance["score"]
            if not self.min_score or (score is not None and np.float32(score) >= lowest):
                yield position, instance

    def _added(self, record: Mapping[str, Any]) -> list[Any]:
        values = dict(_added_values(record))
        return [_typed(values.get(key), kind) for key, kind in self.of_frames.items()]


def read_schema(records: Iterable[Mapping[str, Any]], min_score: float = 0.0) -> Schema:
    """Return the columns for the records of a ``predictions.jsonl``; reads all of them."""
    of_instances: dict[str, Kind | None] = {}
    of_frames: dict[str, Kind | None] = {}
    for record in records:
        for key, value in _added_values(record):
            of_frames[key] = _common(of_frames.get(key), value)
        for instance in record["instances"]:
            for key, value in instance.items():
                if key not in _KNOWN_OF_INSTANCE:
                    of_instances[key] = _common(of_instances.get(key), value)
    mine, added = _settled(of_instances), _settled(of_frames)
    return Schema(
        instances=_named({**_FRAME, **_INSTANCE}, mine, added),
        frames=_named({**_FRAME, _COUNT: "int"}, added),
        of_instances=mine,
        of_frames=added,
        min_score=min_score,
    )


def _settled(kinds: Mapping[str, Kind | None]) -> dict[str, Kind]:
    """Give columns without any value the type of NaN."""
    return {key: kind or "float" for key, kind in kinds.items()}


def _named(fixed: Mapping[str, Kind], *added: Mapping[str, Kind]) -> dict[str, Kind]:
    columns = dict(fixed)
    for each in added:
        for name, kind in each.items():
            while name in columns:
                name = f"extra_{name}"
            columns[name] = kind
    return columns


def _added_values(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a source added to a line: single values, and those of mappings."""
    for key, value in record.items():
        if key in _KNOWN_OF_FRAME:
            continue
        if isinstance(value, Mapping):
            yield from value.items()
        else:
            yield key, value


def _common(kind: Kind | None, value: Any) -> Kind | None:
    """Return the type that holds what a column held so far and one more value."""
    own: Kind | None
    if value is None:
        return kind
    if isinstance(value, bool):
        own = "bool"
    elif isinstance(value, int):
        own = "int" if -(1 << 63) <= value < 1 << 63 else "text"
    else:
        own = "float" if isinstance(value, float) else "text"
    if kind in (None, own):
        return own
    return "float" if {kind, own} == {"int", "float"} else "text"


def _typed(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    if kind == "text":
        return _text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return float(value) if kind == "float" else value


def _text(value: str) -> str:
    """Escape what is not Unicode, as a custom runnable's class name may be."""
    return value if value.isascii() else value.encode(errors="backslashreplace").decode()


def _frame_values(record: Mapping[str, Any]) -> list[Any]:
    values = [record.get(key) for key in _FRAME]
    if record.get("time_base") is not None:
        numerator, denominator = record["time_base"]
        values[list(_FRAME).index("time_base")] = f"{numerator}/{denominator}"
    return values


def _instance_values(position: int, instance: Mapping[str, Any]) -> list[Any]:
    box, mask = instance["box"], instance.get("mask")
    return [
        position,
        instance["class_id"],
        _text(instance["class_name"]),
        instance["score"],
        *box,
        _area_px(box, mask),
        mask["counts"] if mask else None,
        instance.get("keypoints"),
        instance.get("track_id"),
    ]


def _area_px(box: list[float | None], mask: Any) -> float | None:
    if mask:
        return float(coco_mask.area(mask))
    x1, y1, x2, y2 = box
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return None
    left, top, right, bottom = (float(np.float32(value)) for value in (x1, y1, x2, y2))
    return max(right - left, 0.0) * max(bottom - top, 0.0)  # as Predictions.area_px
