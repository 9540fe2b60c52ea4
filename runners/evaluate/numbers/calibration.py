"""Whether scores are probabilities: the expected calibration error (ECE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runners.evaluate.engine import Pairs

_BINS = 10


def calibration(pairs: Pairs, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the ECE: by how much scores differ from the share of right detections, on average.

    Returns:
        ``ece``, in [0, 1]; ``bins``: rows of least score, number of detections, mean score, share
        of right ones; ``classes``: the ECE per class.
    """
    counted = ~pairs.ignored
    score, hit, kind = pairs.score[counted], pairs.hit[counted], pairs.detection_class[counted]
    bins = _bins(score, hit)
    return {
        "ece": _ece(bins),
        "bins": [list(row) for row in bins],
        "classes": {
            name: _ece(_bins(score[kind == k], hit[kind == k]))
            for k, name in enumerate(class_names)
        },
    }


def _bins(
    score: NDArray[np.float64], hit: NDArray[np.bool_]
) -> list[tuple[float, int, float, float]]:
    number = np.clip((score * _BINS).astype(np.int64), 0, _BINS - 1)
    rows = []
    for i in range(_BINS):
        here = number == i
        if here.any():
            mean, right = float(score[here].mean()), float(hit[here].mean())
            rows.append((i / _BINS, int(here.sum()), mean, right))
    return rows


def _ece(bins: list[tuple[float, int, float, float]]) -> float | None:
    total = sum(n for _, n, _, _ in bins)
    return sum(n * abs(mean - right) for _, n, mean, right in bins) / total if total else None
