"""From a line of ``predictions.jsonl`` back to a result; ``pipeline.encoding`` is the reverse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding import INSTANCE_KEYS, PANOPTIC, SEM_SEG
from pipeline.errors import OutputError
from pipeline.recorded.masks import RecordedMasks
from pipeline.records import Categories, Frame, Predictions, Segment
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import asset_id_of, is_output_name
from pipeline.system.os_errors import describe_os_error
from pipeline.validation import is_whole


@dataclass(frozen=True, slots=True, eq=False)
class RecordedResult:
    """The predictions of one frame, as a run recorded them; the image is not read.

    Attributes:
        asset_id: Id of the asset that contains the frame: its path relative to the input.
        index: 0-based position of the frame within the asset.
        image_id: The image id in the run's COCO files.
        predictions: The predictions; their masks are decoded when they are used.
        pts: Presentation timestamp in units of ``time_base``; ``None`` for a still image.
        time_base: Seconds per unit of ``pts``.
        time_s: Seconds from the start of a video; ``None`` for a still image.
        columns: The values that a table of images has besides; ``None`` without a table.
    """

    asset_id: str
    index: int
    image_id: int
    predictions: Predictions
    pts: int | None = None
    time_base: Fraction | None = None
    time_s: float | None = None
    columns: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RecordedFrame(Frame):
    """A frame with the predictions that a run recorded for it.

    Attributes:
        predictions: The predictions; by default none, for an image of unknown classes.
    """

    predictions: Predictions = field(default_factory=lambda: Predictions.empty((1, 1)))

    @classmethod
    def of(
        cls, result: RecordedResult, asset_id: str, image: NDArray[np.uint8] | None
    ) -> RecordedFrame:
        """Return the frame of a result.

        Args:
            result: The result.
            asset_id: Id of the asset, which may have another one in another run.
            image: Its image; ``None`` for a black image of the right size, which takes no memory.
        """
        if image is None:
            image = np.broadcast_to(np.uint8(0), (*result.predictions.image_size, 3))
        time = result.pts, result.time_base, result.time_s
        return cls(image, asset_id, result.index, *time, result.predictions)


def decode(record: Mapping[str, Any], categories: Categories, directory: Path) -> RecordedResult:
    """Return what a line of ``predictions.jsonl`` says.

    Args:
        record: The line's object.
        categories: The classes of the model.
        directory: The run directory, from which label maps are read.

    Raises:
        OutputError: The record is damaged, or a label map cannot be read.
    """
    try:
        return RecordedResult(
            asset_id=asset_id_of(record),
            index=record["frame"],
            image_id=record["image_id"],
            predictions=_predictions(record, categories, directory),
            pts=record.get("pts"),
            time_base=Fraction(*record["time_base"]) if "time_base" in record else None,
            time_s=record["time_s"],
            columns=record.get("columns"),
        )
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError) as exc:
        reason = f"no {exc}" if isinstance(exc, KeyError) else exc
        where = f"'{record.get('asset')}', frame {record.get('frame')}"
        raise OutputError(f"the record of {where} in '{directory}' is damaged: {reason}") from exc


def _predictions(record: Mapping[str, Any], categories: Categories, directory: Path) -> Predictions:
    size = record["height"], record["width"]
    if not all(is_whole(side, 1) for side in size):
        raise ValueError(f"expected a height and a width in pixels, got {size}")
    columns = dict(_columns(record["instances"]))
    n = len(record["instances"])
    panoptic = record.get("panoptic_seg")
    has_map = SEM_SEG in record
    return Predictions(
        image_size=size,
        class_names=categories.thing_names,
        boxes=_float32(columns, "box").reshape(n, 4),
        scores=_float32(columns, "score"),
        classes=np.array(columns.get("class_id", []), np.int64),
        masks=RecordedMasks(size, columns["mask"]) if "mask" in columns else None,
        keypoints=_float32(columns, "keypoints") if "keypoints" in columns else None,
        track_ids=np.array(columns["track_id"], np.int64) if "track_id" in columns else None,
        sem_seg=_gray(directory, record[SEM_SEG]) if has_map else None,
        panoptic_seg=_colors(directory, panoptic["file"]) if panoptic else None,
        segments=tuple(map(_segment, panoptic["segments"])) if panoptic else (),
        stuff_names=categories.stuff_names,
        extra={k: _column(v) for k, v in columns.items() if k not in INSTANCE_KEYS},
    )


def _columns(instances: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    for key in instances[0] if instances else ():
        yield key, [instance[key] for instance in instances]


def _float32(columns: Mapping[str, list[Any]], key: str) -> NDArray[np.float32]:
    return np.array(columns.get(key, []), np.float64).astype(np.float32)  # null becomes NaN


def _column(values: list[Any]) -> NDArray[Any]:
    """Return an extra column that is encoded to the same text."""
    kinds = set(_kinds(values))
    with suppress(ValueError, OverflowError):  # lists of different lengths; more than 64 bits
        if float in kinds and kinds <= {float, type(None)}:
            return np.array(values, np.float64)
        if kinds in ({int}, {bool}):
            return np.array(values, np.int64 if int in kinds else bool)
    column = np.empty(len(values), object)
    for i, value in enumerate(values):  # assigned at once, equal lists would become a dimension
        column[i] = value
    return column


def _kinds(value: Any) -> Iterator[type]:
    if isinstance(value, list):
        for each in value:
            yield from _kinds(each)
    else:
        yield type(value)


def _segment(entry: Mapping[str, Any]) -> Segment:
    score = entry.get("score")
    return Segment(
        id=entry["id"],
        class_id=entry["class_id"],
        class_name=entry["class_name"],
        is_thing=entry["is_thing"],
        score=None if score is None else float(np.float32(score)),
        area_px=entry["area"],
    )


def _gray(directory: Path, name: str) -> NDArray[np.int32]:
    return _pixels(directory, name, channels=1).astype(np.int32)


def _colors(directory: Path, name: str) -> NDArray[np.int32]:
    # OpenCV's order is BGR: the least significant byte, red, comes last
    blue, green, red = np.moveaxis(_pixels(directory, name, channels=3).astype(np.int32), 2, 0)
    return np.asarray(red + (green << 8) + (blue << 16))


def _pixels(directory: Path, name: str, channels: int) -> NDArray[Any]:
    import cv2  # takes 0.1 s, and most runs have no label maps

    if not is_output_name(name) or name.split("/")[0] not in (SEM_SEG, PANOPTIC):
        raise ValueError(f"{name!r} is not the name of a label map")
    try:
        with open_to_read(directory / name) as file:
            data = np.frombuffer(file.read(), np.uint8)
    except OSError as exc:
        why = describe_os_error(exc)
        raise OutputError(f"cannot read the label map '{directory / name}': {why}") from exc
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if pixels is None or pixels.shape[2:] != (() if channels == 1 else (channels,)):
        raise OutputError(f"the label map '{directory / name}' is damaged")
    return np.asarray(pixels)
