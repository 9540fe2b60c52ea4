"""COCO's numbers: the twelve of boxes and masks, the ten of keypoints, and per class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runners.evaluate.engine import Arrays, Dataset, accumulated, has_hotcoco

_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}
_KEYPOINT_AREAS = {"": 0, "m": 1, "l": 2}
_TIDE = {
    "Cls": "wrong class",
    "Loc": "wrong place",
    "Both": "wrong class and place",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
    "FP": "all false positives",
    "FN": "all false negatives",
}
_IOU_50, _IOU_75 = 0, 5  # indices of COCO's ten IoU thresholds


def coco_numbers(dataset: Dataset, kind: str) -> dict[str, Any]:
    """Return COCO's numbers in [0, 1], and ``classes`` with those of each class.

    They are the ``stats`` of pycocotools' ``COCOeval``, with ``None`` instead of -1.
    """
    arrays = accumulated(dataset.judge(kind))
    numbers = _stats(arrays, kind)
    classes = {}
    counts = np.bincount(
        [each["category_id"] for each in dataset.annotations if not each["iscrowd"]],
        minlength=1 + max((each["id"] for each in dataset.categories), default=0),
    )
    for k, category in enumerate(dataset.categories):
        one = Arrays(arrays.precision[:, :, k : k + 1], arrays.recall[:, k : k + 1])
        classes[str(category["name"])] = {
            "instances": int(counts[category["id"]]),
            **_stats(one, kind),
        }
    return {**numbers, "classes": classes}


def average_precision(dataset: Dataset, kind: str, image_ids: set[Any]) -> float | None:
    """Return the AP of some of the images."""
    return _mean(accumulated(dataset.judge(kind, image_ids)).precision[:, :, :, 0, -1])


def _stats(arrays: Arrays, kind: str) -> dict[str, float | None]:
    precision, recall = arrays.precision, arrays.recall
    areas = _KEYPOINT_AREAS if kind == "keypoints" else _AREAS
    found = {
        "AP": _mean(precision[:, :, :, 0, -1]),
        "AP50": _mean(precision[_IOU_50, :, :, 0, -1]),
        "AP75": _mean(precision[_IOU_75, :, :, 0, -1]),
    }
    found |= {f"AP{a}": _mean(precision[:, :, :, i, -1]) for a, i in areas.items() if a}
    if kind == "keypoints":
        found["AR"] = _mean(recall[:, :, 0, -1])
        found["AR50"] = _mean(recall[_IOU_50, :, 0, -1])
        found["AR75"] = _mean(recall[_IOU_75, :, 0, -1])
    else:
        found |= {f"AR{n}": _mean(recall[:, :, 0, i]) for i, n in enumerate((1, 10, 100))}
    return found | {f"AR{a}": _mean(recall[:, :, i, -1]) for a, i in areas.items() if a}


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of what is not -1, added in pycocotools' order."""
    values = values[values > -1]
    return float(np.mean(values)) if values.size else None


def tide(dataset: Dataset, kind: str) -> dict[str, Any] | None:
    """Return TIDE's error types: by how much AP50 would rise without each, and how many there are.

    ``None`` without hotcoco, which computes them.
    """
    if not has_hotcoco():
        return None
    judge = dataset.judge(kind)
    accumulated(judge)
    found = judge.tide_errors()
    return {
        name: {"ap": float(found["delta_ap"][key]), "count": found["counts"].get(key)}
        for key, name in _TIDE.items()
    }
