"""Results and lines that formats find hard: holes, parts, odd names, empty and broken values."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from journals import write_journal

from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Frame, Predictions, Result

SIZE = (40, 60)
NAMES = ("person", "odd: 'q' \"<&>\" #1 é猫😀")
CATEGORIES = Categories(NAMES, (0, 17))
POSE = Categories(("person",), keypoint_names=("nose", "left <eye>"), skeleton=((0, 1),))
ODD_ASSETS = (
    "plain.jpg",
    "d/with space.jpg",
    "d/猫 é😀.jpg",
    "d/caf\udce9.jpg",
    "d/quote'\"<&>.jpg",
    "d/bell\x07 tab\t line\nend.jpg",
)


def shaped(**columns: Any) -> Predictions:
    """Four instances: of two parts, with a hole and an island in it, without pixels, the frame."""
    dense = np.zeros((4, *SIZE), bool)
    dense[0, 2:5, 3:9] = dense[0, 5:12, 4:6] = dense[0, 30:, 50:] = True
    dense[1, 1:20, 20:40] = True
    dense[1, 5:15, 25:35] = False
    dense[1, 9, 30] = True
    dense[3] = True
    boxes = [[3, 2, 60, 40], [20, 1, 40, 20], [1.5, 2.25, 7, 9], [0, 0, 60, 40]]
    fields: dict[str, Any] = {
        "boxes": np.float32(boxes),
        "scores": np.float32([0.9, 0.8, 0.7, 0.6]),
        "classes": np.array([0, 1, 1, 0]),
        "masks": InstanceMasks.from_dense(dense),
        "track_ids": np.array([7, 8, 9, 10]),
    }
    return Predictions(SIZE, NAMES, **(fields | columns))


def pose() -> Predictions:
    """One instance with two keypoints, the second not finite."""
    keypoints = np.float32([[[10.5, 20.25, 0.9], [np.nan, 3, 0.8]]])
    boxes, scores = np.float32([[5, 6, 25, 36]]), np.float32([0.9])
    return Predictions(SIZE, ("person",), boxes, scores, np.array([0]), keypoints=keypoints)


def journal(
    directory: Path, *assets: str, p: Predictions | None = None, time_s: float | None = None
) -> Path:
    """Write a line per asset, by default a plain one; with a time, frame 3 of a video."""
    p = shaped() if p is None else p
    index, image = 0 if time_s is None else 3, np.zeros((*p.image_size, 3), np.uint8)
    frames = [Frame(image, asset, index, time_s=time_s) for asset in assets or ("a.jpg",)]
    return write_journal(directory, [Result(frame, p) for frame in frames])


def image_asset(folder: Path, asset_id: str, size: tuple[int, int] = SIZE) -> Any:
    """Return an asset whose file exists, gray and of this ``(height, width)``."""
    path = folder / asset_id
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix if path.suffix in (".jpg", ".png") else ".png"
    path.write_bytes(cv2.imencode(suffix, np.full((*size, 3), 90, np.uint8))[1].tobytes())
    return SimpleNamespace(id=asset_id, path=path, is_still=True)


def write_to(sink: Any, *assets: Any, p: Predictions | None = None) -> None:
    """Write assets to a sink: a frame of a still, frames 0 and 7 of another."""
    p = shaped() if p is None else p
    with sink:
        for asset in assets:
            sink.begin(asset)
            for index in (0,) if asset.is_still else (0, 7):
                image = np.full((*p.image_size, 3), 90, np.uint8)
                sink.write(Result(Frame(image, asset.id, index), p))
            sink.flush(asset)
        sink.sync()
