"""``predictions.jsonl``: one line a frame, from which every aggregate is derived."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import OutputError, SinkError
from pipeline.protocols import Asset
from pipeline.records import Frame, Predictions, Result
from pipeline.system.descriptors import check_named, open_file, open_to_read
from pipeline.system.files import OutputFolder, asset_keys, output_name, sync_folder

NAME = "predictions.jsonl"
_MAPS = ("sem_seg", "panoptic")
_INSTANCE_KEYS = ("box", "score", "class_id", "class_name", "mask", "keypoints", "track_id")


@dataclass(frozen=True, slots=True)
class Position:
    """How far ``predictions.jsonl`` goes.

    Attributes:
        size: Bytes of the whole assets in it.
        next_image_id: Of the next frame.
    """

    size: int = 0
    next_image_id: int = 1


class PredictionsJsonl:
    """Writes ``<directory>/predictions.jsonl`` and the label maps that it refers to.

    A frame's line is kept in memory until its asset is flushed; all lines of an asset are then
    appended in one write, so the file holds whole assets only. Semantic and panoptic maps lie
    beside it as PNG: ``sem_seg/`` has grey levels that are class ids (8 or 16 bits), ``panoptic/``
    COCO's colours (segment id = R + 256 G + 65536 B).

    Attributes:
        position: Where the next asset's lines go. Set it before entering to go on after the
            assets that an earlier run committed; what lies behind them is cut off.

    Args:
        directory: The run directory.
    """

    outputs = NAME, "sem_seg/", "panoptic/"

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.position = Position()
        self._file: FileIO | None = None
        self._maps = OutputFolder(self.directory)
        self._pending: dict[str, list[tuple[str, str]]] = {}
        self._last: tuple[Asset, Position] | None = None

    def __enter__(self) -> PredictionsJsonl:
        """Open the file, and cut it off at ``position``.

        Raises:
            OutputError: It is shorter than that, was changed, or is no regular file.
        """
        path, size = self.directory / NAME, self.position.size
        # unbuffered: after a failed write nothing is left in a buffer for close() to write again
        self._file = FileIO(open_file(path, os.O_RDWR | os.O_CREAT), "r+")
        if self._file.seek(0, os.SEEK_END) < size:
            self._file.close()
            self._file = None
            raise OutputError(
                f"'{path}' is shorter than the {size} bytes that were committed; "
                "run again with runner=repair, which keeps what is whole"
            )
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self._file.close()
            self._file = None
            raise OutputError(
                f"'{path}' was changed by something other than d2run; run again with "
                "runner=repair, which keeps what is whole"
            )
        self._file.truncate(size)
        self._file.seek(size)
        sync_folder(self.directory)  # its name, if it is new or a killed run's
        self._pending, self._last = {}, None
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Bring the file to the disk and close it."""
        if self._file is not None:
            with self._file as file:
                file.truncate()  # of what a failed write may have left behind the last whole asset
                os.fsync(file.fileno())
            self._file = None

    def begin(self, asset: Asset) -> None:
        """Do nothing: lines are collected as they come."""

    def write(self, result: Result) -> None:
        """Keep one frame's line; write its label maps.

        Raises:
            SinkError: An extra column has the name of a known key, or a value that is not JSON.
        """
        frame, predictions = result.frame, result.predictions
        pending = self._pending.setdefault(frame.asset_id, [])
        height, width = predictions.image_size
        head = asset_keys(frame.asset_id) | {
            "frame": frame.index,
            "time_s": frame.time_s,
            "width": width,
            "height": height,
        }
        tail: dict[str, Any] = {"instances": _instances(frame, predictions)}
        if predictions.sem_seg is not None:
            grey = _grey(frame, predictions.sem_seg, len(predictions.stuff_names))
            tail["sem_seg"] = self._write_map("sem_seg", frame, grey)
        if predictions.panoptic_seg is not None:
            colours = _colours(predictions.panoptic_seg)
            tail["panoptic_seg"] = {
                "file": self._write_map("panoptic", frame, colours),
                "segments": _segments(predictions),
            }
        try:
            # the image id, known when the asset is flushed, goes between the two
            pending.append((_dumps(head)[:-1], _dumps(tail)[1:]))
        except (TypeError, ValueError) as exc:
            raise SinkError(
                f"'{frame.asset_id}': an extra column cannot be written as JSON ({exc}); make it "
                "an array of numbers, booleans or strings",
                asset_id=frame.asset_id,
                step="predictions",
            ) from exc

    def flush(self, asset: Asset) -> None:
        """Append the asset's lines, all or none.

        Raises:
            OSError: The file cannot grow; it ends with the last whole asset.
        """
        if self._file is None:
            raise RuntimeError("PredictionsJsonl.flush: enter the sink first")
        lines = self._pending.pop(asset.id, [])
        start = self.position
        fixed = getattr(asset, "image_id", None)
        first = start.next_image_id if fixed is None else fixed
        text = "".join(
            f'{head}, "image_id": {image_id}, {tail}\n'
            for image_id, (head, tail) in enumerate(lines, first)
        )
        # what is not Unicode in a class name or column comes out as JSON's escape of it
        data = text.encode(errors="backslashreplace")
        self._last = (asset, start)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._rewind(start)
            raise
        taken = len(lines) if fixed is None else 0
        self.position = Position(start.size + len(data), start.next_image_id + taken)

    def sync(self) -> None:
        """Make durable what was flushed.

        Raises:
            OSError: It cannot be.
            OutputError: The file, or a label map, was moved or deleted during the run.
        """
        if self._file is not None:
            os.fsync(self._file.fileno())
            check_named(self.directory / NAME, self._file.fileno())
        self._maps.sync()

    def discard(self, asset: Asset) -> None:
        """Forget the asset's frames and remove its label maps, those of an earlier run too.

        The asset flushed last can be discarded too, for when another sink fails to flush it.
        """
        self._pending.pop(asset.id, None)
        if self._last is not None and self._last[0] is asset:
            self._rewind(self._last[1])
            self._last = None
        suffix = ".png" if asset.is_still else ""
        for folder in _MAPS:
            self._maps.remove(map_name(folder, asset.id, suffix=suffix))

    def _rewind(self, start: Position) -> None:
        self.position = start
        if self._file is not None:
            self._file.seek(start.size)
            with suppress(OSError):  # the error that led here says more
                self._file.truncate(start.size)

    def _write_map(self, folder: str, frame: Frame, pixels: NDArray[Any]) -> str:
        import cv2  # a tenth of a second that most commands do not need

        index = None if frame.time_s is None else frame.index
        name = map_name(folder, frame.asset_id, index)
        # level 1: label maps have few edges, and higher levels cost more than they save
        done, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not done:
            raise SinkError(
                f"'{frame.asset_id}': {folder} cannot be encoded as PNG",
                asset_id=frame.asset_id,
                step="predictions",
            )
        self._maps.write(name, png.data)
        return name


def map_name(folder: str, asset_id: str, frame: int | None = None, suffix: str = ".png") -> str:
    """Return the name of an asset's label map, relative to the run directory."""
    return f"{folder}/{output_name(_printable(asset_id), suffix, frame)}"


def records(predictions: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a ``predictions.jsonl``, one at a time.

    Raises:
        OutputError: A line is not whole.
    """
    with open_to_read(predictions) as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError as exc:
                raise OutputError(
                    f"'{predictions}': line {number} is not whole; run again with runner=repair, "
                    "which keeps what is whole"
                ) from exc


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


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _printable(asset_id: str) -> str:
    """Return the id, or for one that is not UTF-8 a name that a JSON string can hold exactly."""
    name = asset_keys(asset_id)
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
        if name in _INSTANCE_KEYS:
            raise SinkError(
                f"'{frame.asset_id}': the extra column '{name}' has the name of a key of "
                f"{NAME}; give it another name",
                asset_id=frame.asset_id,
                step="predictions",
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


def _grey(frame: Frame, sem_seg: NDArray[np.int32], n_classes: int) -> NDArray[Any]:
    low, high = int(sem_seg.min()), max(int(sem_seg.max()), n_classes - 1)
    if low < 0 or high > 0xFFFF:
        raise SinkError(
            f"'{frame.asset_id}': sem_seg has class ids {low}..{high}, a PNG holds 0..65535",
            asset_id=frame.asset_id,
            step="predictions",
        )
    return sem_seg.astype(np.uint8 if high <= 0xFF else np.uint16)


def _colours(panoptic_seg: NDArray[np.int32]) -> NDArray[np.uint8]:
    # OpenCV writes BGR: the least significant byte, red, comes last
    shifted = [(panoptic_seg >> bits).astype(np.uint8) for bits in (16, 8, 0)]
    return np.stack(shifted, axis=2)
