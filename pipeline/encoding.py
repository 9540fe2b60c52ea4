"""The format of ``predictions.jsonl``: one line of JSON per frame, from result to bytes and back.

The encoder knows nothing of files: image ids depend on the order of commits, so it writes 0 and
``renumbered`` fills them in when the line is appended.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import OutputError, SinkError
from pipeline.records import Frame, Predictions, Result
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import asset_keys, output_name

NAME = "predictions.jsonl"
SEM_SEG, PANOPTIC = "sem_seg", "panoptic"
_STEP = "predictions"
INSTANCE_KEYS = ("box", "score", "class_id", "class_name", "mask", "keypoints", "track_id")
# quotes inside a JSON string are escaped, so the first match is the line's own key
_COLUMNS = b', "columns": {'
_IMAGE_ID = re.compile(rb', "image_id": \d+, "instances": ')


def encode(
    result: Result, *, numbered: bool = False, columns: Mapping[str, Any] | None = None
) -> bytes:
    """Return a frame's line, newline included, with ``"image_id": 0``.

    Args:
        result: One frame and its predictions.
        numbered: Whether the frame's label maps are named by frame; see ``map_name``.
        columns: Values of the asset; see ``AnnotatedAsset``.

    Raises:
        SinkError: An extra column has the name of a known key, or a value that JSON cannot hold.
    """
    frame, predictions = result.frame, result.predictions
    height, width = predictions.image_size
    line: dict[str, Any] = asset_keys(frame.asset_id) | {
        "frame": frame.index,
        "time_s": frame.time_s,
    }
    if frame.pts is not None and frame.time_base is not None:
        line["pts"] = frame.pts
        line["time_base"] = [frame.time_base.numerator, frame.time_base.denominator]
    line |= {"width": width, "height": height, "image_id": 0}
    line["instances"] = _instances(frame, predictions)
    number = frame.index if numbered else None
    if predictions.sem_seg is not None:
        line["sem_seg"] = map_name(SEM_SEG, frame.asset_id, number)
    if predictions.panoptic_seg is not None:
        line["panoptic_seg"] = {
            "file": map_name(PANOPTIC, frame.asset_id, number),
            "segments": _segments(predictions),
        }
    if columns is not None:
        line["columns"] = dict(columns)
    try:
        text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise SinkError(
            f"'{frame.asset_id}': an extra column cannot be written as JSON ({exc}); make it "
            "an array of numbers, booleans or strings",
            asset_id=frame.asset_id,
            step=_STEP,
        ) from exc
    # what is not Unicode in a class name or column becomes JSON's escape sequence
    return f"{text}\n".encode(errors="backslashreplace")


def asset_prefix(asset_id: str) -> bytes:
    """Return the text with which every line of an asset begins."""
    keys = json.dumps(asset_keys(asset_id), ensure_ascii=False)
    return f'{keys[:-1]}, "frame": '.encode(errors="backslashreplace")


def columns_digest(columns: Mapping[str, Any] | None) -> str | None:
    """Return a digest of an asset's columns, to notice changes; ``None`` without columns."""
    return None if columns is None else sha256(json.dumps(columns).encode()).hexdigest()[:16]


def columns_of(line: bytes) -> dict[str, Any] | None:
    """Return an asset's columns in one of its lines; the rest of the line is not decoded."""
    start = line.rfind(_COLUMNS)
    if start < 0:
        return None
    try:  # quotes inside a JSON string are escaped, so only a key of an instance can be another one
        columns: dict[str, Any] = json.loads(line[start + len(_COLUMNS) - 1 : -len("}\n")])
    except ValueError:
        return None
    return columns


def renumbered(lines: Iterable[bytes], first: int) -> Iterator[bytes]:
    """Yield lines with their image ids replaced by ``first``, ``first + 1``, ...

    Raises:
        OutputError: A line has no image id.
    """
    for image_id, line in enumerate(lines, first):
        numbered, found = _IMAGE_ID.subn(b', "image_id": %d, "instances": ' % image_id, line, 1)
        if not found:
            raise OutputError(
                f"a line of {NAME} has no image_id. Run the same command with runner=repair to "
                "keep the intact results"
            )
        yield numbered


def without_image_id(line: bytes) -> bytes:
    """Return a line of ``encode`` without its image id, which is not known yet."""
    return _IMAGE_ID.sub(b', "instances": ', line, 1)


def read_records(predictions: Path, min_score: float = 0.0) -> Iterator[dict[str, Any]]:
    """Yield the objects of a ``predictions.jsonl``, one at a time.

    Args:
        predictions: The file.
        min_score: Omit instances of a lower score, compared as float32; above 0, also those whose
            score is not finite.

    Raises:
        OutputError: A line is incomplete.
    """
    with open_to_read(predictions) as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except ValueError as exc:
                raise OutputError(
                    f"'{predictions}': line {number} is incomplete. Run the same command with "
                    "runner=repair to keep the intact results"
                ) from exc
            yield _at_least(record, np.float32(min_score)) if min_score else record


def _at_least(record: dict[str, Any], min_score: np.float32) -> dict[str, Any]:
    kept = [
        instance
        for instance in record["instances"]
        if instance["score"] is not None and np.float32(instance["score"]) >= min_score
    ]
    return record | {"instances": kept}


def map_name(folder: str, asset_id: str, frame: int | None = None, suffix: str = ".png") -> str:
    """Return the name of a label map, relative to the run directory.

    Args:
        folder: ``SEM_SEG`` or ``PANOPTIC``.
        asset_id: The asset.
        frame: Index of the frame; ``None`` for a still, which has one map.
        suffix: Extension of the file; ``""`` for the directory of an asset of several frames.
    """
    return f"{folder}/{output_name(_printable(asset_id), suffix, frame)}"


def floats(values: NDArray[Any]) -> Any:
    """Return nested lists of the shortest floats that read back to the same values.

    Args:
        values: Floating point, any shape; NaN and infinity become ``None``.
    """
    finite = np.isfinite(values).ravel().tolist()
    short = [
        float(str(value)) if ok else None for value, ok in zip(values.ravel(), finite, strict=True)
    ]
    return np.array(short, object).reshape(values.shape).tolist()


def _printable(asset_id: str) -> str:
    """Return the id; for one that is not UTF-8, a unique name that a JSON string can hold."""
    name: Mapping[str, str] = asset_keys(asset_id)
    if "asset_b64" not in name:
        return asset_id
    mark = sha256(os.fsencode(asset_id)).hexdigest()[:12]
    return f"{name['asset']}~{mark}"


def _instances(frame: Frame, p: Predictions) -> list[dict[str, Any]]:
    columns: dict[str, Any] = {
        "box": floats(p.boxes),
        "score": floats(p.scores),
        "class_id": p.classes.tolist(),
        "class_name": [p.class_names[i] for i in p.classes.tolist()],
    }
    if p.masks is not None:
        columns["mask"] = p.masks.rle()
    if p.keypoints is not None:
        columns["keypoints"] = floats(p.keypoints)
    if p.track_ids is not None:
        columns["track_id"] = p.track_ids.tolist()
    for name, column in p.extra.items():
        if name in INSTANCE_KEYS:
            raise SinkError(
                f"'{frame.asset_id}': the extra column '{name}' has the name of a key of {NAME}. "
                "Give it another name",
                asset_id=frame.asset_id,
                step=_STEP,
            )
        columns[name] = floats(column) if column.dtype.kind == "f" else column.tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _segments(p: Predictions) -> list[dict[str, Any]]:
    segments = []
    for segment in p.segments:
        entry: dict[str, Any] = {
            "id": segment.id,
            "class_id": segment.class_id,
            "class_name": segment.class_name,
            "is_thing": segment.is_thing,
        }
        if segment.score is not None:
            entry["score"] = floats(np.array([segment.score], np.float32))[0]
        segments.append(entry | {"area": segment.area_px})
    return segments
