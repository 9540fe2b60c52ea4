"""Precision, recall and F1 over score thresholds, and the threshold of each class that is best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from runners.evaluate.engine import Pairs

DEFAULT = 0.5  # of classes without a best threshold
_STEPS = tuple(round(0.05 * i, 2) for i in range(20))
_MAX_DIGITS = 9  # tell any two float32 in [0, 1] apart


def f1_numbers(pairs: Pairs, class_names: Sequence[str]) -> dict[str, Any]:
    """Return precision, recall and F1 of each class and of all together.

    Returns:
        ``classes``: per class the best ``threshold`` (``None`` if no detection is right) with
        ``precision``, ``recall`` and ``f1``; ``unfiltered``: the same of all detections; ``curve``:
        rows of threshold, precision, recall, F1. ``one``: the same with one threshold for all
        classes. ``together``: precision, recall and F1 of all classes with the best thresholds.
    """
    counted = ~pairs.ignored
    classes, total = {}, np.zeros(3)
    for k, name in enumerate(class_names):
        of_class = counted & (pairs.detection_class == k)
        n = int((pairs.truth_class == k).sum())
        found = _best(pairs.score[of_class], pairs.hit[of_class], n)
        classes[name] = {"instances": n, **found}
        least = DEFAULT if found["threshold"] is None else found["threshold"]
        total += [*_counts(pairs.score[of_class], pairs.hit[of_class], least), n]
    return {
        "together": rates(*total),
        "one": _best(pairs.score[counted], pairs.hit[counted], len(pairs.truth_class)),
        "classes": classes,
    }


def thresholds_of(numbers: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return the threshold of each class, as a run with the file uses it."""
    found = [each["threshold"] for each in numbers["classes"].values()]
    return np.array([DEFAULT if each is None else each for each in found], np.float32)


def above(detections: Iterable[dict[str, Any]], least: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Return the detections whose score is at least the threshold of their class."""
    return [
        each for each in detections if np.float32(each["score"]) >= least[each["category_id"] - 1]
    ]


def stage_yaml(numbers: Mapping[str, Any], directory: str) -> str:
    """Return an option of ``stage`` with the best thresholds.

    Args:
        numbers: As ``f1_numbers`` returns them.
        directory: Name of the run directory, for the comment.
    """
    best = {
        name: each["threshold"]
        for name, each in numbers["classes"].items()
        if each["threshold"] is not None
    }
    stage = {
        "_target_": "pipeline.stages.min_score.MinScore",
        "threshold": DEFAULT,
        "thresholds": best,
    }
    text = yaml.safe_dump({"min_score": stage}, sort_keys=False, allow_unicode=True)
    command = f"--config-dir {directory}/thresholds 'stage=[best_f1]' input=dir/"
    return f"# python run.py {command}\n# The threshold of each class with the best F1.\n{text}"


def _best(score: NDArray[np.float64], hit: NDArray[np.bool_], n: int) -> dict[str, Any]:
    threshold = _best_threshold(score, hit, n)
    numbers: dict[str, Any] = {"threshold": threshold}
    numbers |= rates(*_counts(score, hit, threshold if threshold is not None else DEFAULT), n)
    numbers["unfiltered"] = rates(*_counts(score, hit, 0), n)
    numbers["curve"] = [[step, *rates(*_counts(score, hit, step), n).values()] for step in _STEPS]
    return numbers


def _best_threshold(score: NDArray[np.float64], hit: NDArray[np.bool_], n: int) -> float | None:
    """Return the threshold with the best F1; of several, the highest."""
    if not hit.any():
        return None
    order = np.argsort(-score, kind="stable")
    score, right = score[order], np.cumsum(hit[order])
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # of each score
    f1 = 2 * right[last] / (last + 1 + n)
    i = int(np.argmax(f1))
    below = score[last[i + 1]] if i + 1 < len(last) else 0.0
    return _shortest(float(below), float(score[last[i]]))


def _shortest(low: float, high: float) -> float:
    """Return the number with the fewest digits above ``low`` and at most ``high``, as float32."""
    for digits in range(1, _MAX_DIGITS + 1):
        number = float(np.floor(high * 10**digits) / 10**digits)
        if np.float32(low) < np.float32(number) <= np.float32(high):
            return number
    return high


def _counts(
    score: NDArray[np.float64], hit: NDArray[np.bool_], least: float
) -> tuple[float, float]:
    """Return how many detections are right, and how many there are."""
    kept = score.astype(np.float32) >= np.float32(least)
    return float(hit[kept].sum()), float(kept.sum())


def rates(right: float, found: float, n: float) -> dict[str, float | None]:
    """Return precision, recall and F1; ``None`` where there is nothing to divide by.

    Args:
        right: Number of detections that are right.
        found: Number of detections.
        n: Number of objects.
    """
    return {
        "precision": right / found if found else None,
        "recall": right / n if n else None,
        "f1": 2 * right / (found + n) if found + n else None,
    }
