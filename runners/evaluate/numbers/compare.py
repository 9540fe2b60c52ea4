"""Compares two runs on the images and classes that both have."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from runners.evaluate.data import Data
from runners.evaluate.engine import accumulated
from runners.evaluate.numbers.mistakes import Mistakes
from runners.evaluate.reading.matching import Matched

_SHOWN = 20
_CONFIDENCE = 0.95


def in_common(ours: Matched, theirs: Matched) -> tuple[Matched, Matched]:
    """Return both, limited to the images and classes of the ground truth that both have.

    Raises:
        ConfigError: They have no image or no class in common.
    """
    images = set(ours.images.values()) & set(theirs.images.values())
    names = set(ours.categories) & set(theirs.categories)
    if not images or not names:
        what = "class" if images else "image"
        raise ConfigError(f"compare: the runs have no {what} of the ground truth in common")
    return _limited(ours, images, names), _limited(theirs, images, names)


def _limited(matched: Matched, images: set[Any], names: set[str]) -> Matched:
    return replace(
        matched,
        images={i: each for i, each in matched.images.items() if each in images},
        categories={name: each for name, each in matched.categories.items() if name in names},
    )


def differences(ours: Data, theirs: Data, n_bootstrap: int, seed: int) -> dict[str, Any]:
    """Return COCO's numbers of both, and the differences with their confidence intervals.

    Args:
        ours: This run.
        theirs: The other run, with the same images and classes.
        n_bootstrap: How often the images are drawn again, with replacement.
        seed: Of these draws.
    """
    found: dict[str, Any] = {}
    for kind in (kind for kind in ours.kinds if kind in theirs.kinds):
        judges = [
            ours.dataset.with_detections(data.dataset.detections).judge(kind)
            for data in (theirs, ours)
        ]
        for judge in judges:
            accumulated(judge)
        result = import_module("hotcoco").compare(
            *judges, n_bootstrap=n_bootstrap, seed=seed, confidence=_CONFIDENCE
        )
        found[kind] = {name: _row(result, name) for name in result["metric_keys"]}
    return found


def _row(result: dict[str, Any], name: str) -> dict[str, Any]:
    this, other = result["metrics_b"][name], result["metrics_a"][name]
    if -1 in (this, other):  # there is nothing to measure
        return {"this": None, "other": None, "difference": None, "interval": None}
    interval = (result.get("ci") or {}).get(name)
    return {
        "this": this,
        "other": other,
        "difference": result["deltas"][name],
        "interval": None if interval is None else [interval["lower"], interval["upper"]],
    }


def disagreements(data: Data, ours: Mistakes, theirs: Mistakes) -> list[dict[str, Any]]:
    """Return the images with the largest difference in mistakes, each run at its thresholds."""
    difference = ours.errors - theirs.errors
    others = np.flatnonzero(difference).tolist()
    order: list[int] = sorted(others, key=lambda i: (-abs(difference[i]), i))
    return [
        {
            "asset": data.name_of(i),
            "image_id": data.images[i]["id"],
            "errors": int(ours.errors[i]),
            "other_errors": int(theirs.errors[i]),
        }
        for i in order[:_SHOWN]
    ]
