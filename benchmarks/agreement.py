"""Compares d2run's results with ``DefaultPredictor``'s, by the limits of benchmarks/README.md."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

_COUNTED = 0.05  # the lowest score that counts
_COUNTED_HALF = 0.5
_HALF_IOU = 0.95
_ONE_OF = 100  # of at least this many, one may be unpaired if the share is below 1


@dataclass(frozen=True)
class Line:
    """The required agreement.

    Attributes:
        box_px: Largest difference of a box coordinate within a pair, in pixels.
        score: Largest difference of the scores within a pair.
        share: Share of the detections that must have a pair.
        same_masks: Whether pairs must have the same RLE.
    """

    box_px: float
    score: float
    share: float
    same_masks: bool = False


LINES = {
    "exact": Line(1e-3, 1e-4, 1.0, same_masks=True),
    "fp32": Line(0.05, 1e-3, 0.999),
    "half": Line(0, 0, 0.99),
}


def line_of(record: Mapping[str, Any]) -> str:
    """Return the name of the limits that apply to a run, from its ``run.json``."""
    config = record["config"]
    runnable = config["runnable"]
    # decoding and resizing on the device produce other pixels
    pixels = config.get("decode", {}).get("jpeg") == "nvjpeg" or runnable.get("resize_on_device")
    if pixels or runnable.get("precision", "fp32") != "fp32":
        return "half"
    return "exact" if runnable.get("exact") else "fp32"


@dataclass(frozen=True)
class Agreement:
    """How well two sets of results agree.

    Attributes:
        line: Name of the limits.
        detections: Number of detections of the reference.
        paired: Share of the detections that have a pair, the smaller of both sides.
        same_masks: Share of the pairs with the same RLE.
        holds: Whether the limits are met.
    """

    line: str
    detections: int
    paired: float
    same_masks: float
    holds: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the values to save."""
        return asdict(self)


Instances = dict[str, list[dict[str, Any]]]


def of_naive(path: Path) -> Instances:
    """Read the naive script's ``results.json``."""
    instances: Instances = defaultdict(list)
    for result in json.loads(path.read_text()):
        instances[result["image"]].append(result)
    return instances


def of_job(path: Path) -> Instances:
    """Read a ``predictions.jsonl``."""
    frames = [json.loads(line) for line in path.read_text().splitlines()]
    return {frame["asset"]: frame["instances"] for frame in frames}


def compare(got: Instances, want: Instances, line: str) -> Agreement:
    """Pair the instances of each image, and check the limits."""
    asked = LINES[line]
    least = _COUNTED_HALF if line == "half" else _COUNTED
    totals, paired, same_masks = np.zeros(2, int), np.zeros(2, int), 0
    for name in {*got, *want}:
        ours, theirs = got.get(name, []), want.get(name, [])
        fits = _fits(ours, theirs, asked, line == "half")
        # one of a pair may have a score just below the limit
        sides = ((ours, fits), (theirs, fits.T))
        for side, (instances, pairs) in enumerate(sides):
            counted = np.array([item["score"] > least for item in instances], bool)
            totals[side] += counted.sum()
            paired[side] += (pairs.any(axis=1) & counted).sum()
        same_masks += sum(
            ours[i].get("mask") in [theirs[j].get("mask") for j in np.flatnonzero(fits[i])]
            for i in np.flatnonzero(fits.any(axis=1))
            if ours[i]["score"] > least
        )
    share = float((paired / np.maximum(totals, 1)).min()) if totals.any() else 1.0
    same = same_masks / max(1, int(paired[0]))
    one = (totals >= _ONE_OF) & (asked.share < 1)
    allowed = np.maximum(np.round((1 - asked.share) * totals, 9), one)
    enough = bool((totals - paired <= allowed).all())
    holds = enough and (same == 1 or not asked.same_masks or not totals[0])
    return Agreement(line, int(totals[1]), share, same, bool(holds))


def _fits(ours: list[Any], theirs: list[Any], line: Line, half: bool) -> np.ndarray:
    """Return bool ``(ours, theirs)``: which can be the same instance."""
    a, b = (np.array([x["box"] for x in side], float).reshape(-1, 4) for side in (ours, theirs))
    scores = [np.array([x["score"] for x in side], float) for side in (ours, theirs)]
    classes = [np.array([x["class_id"] for x in side], int) for side in (ours, theirs)]
    same = classes[0][:, None] == classes[1]
    if half:
        return np.asarray(same & (_iou(a, b) >= _HALF_IOU))
    near = np.abs(a[:, None] - b).max(axis=2, initial=0) <= line.box_px
    return np.asarray(same & near & (np.abs(scores[0][:, None] - scores[1]) <= line.score))


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1] - shared, 1e-9))
