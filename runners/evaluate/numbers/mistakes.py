"""Which mistakes a run makes at its best thresholds: between classes, and per image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runners.evaluate.data import Data
from runners.evaluate.engine import Pairs, pairs
from runners.evaluate.numbers.thresholds import above

_WORST = 20


@dataclass(frozen=True)
class Mistakes:
    """The mistakes of a run.

    Attributes:
        pairs: Detections and annotations, matched whatever their class.
        n_classes: Number of classes.
        errors: int64 (images,), number of mistakes per image.
    """

    pairs: Pairs
    n_classes: int
    errors: NDArray[np.int64]

    def confusion(self) -> NDArray[np.int64]:
        """Return a matrix: rows are true classes, columns detected ones; the last is "nothing"."""
        found, n = self.pairs, self.n_classes
        matrix = np.zeros((n + 1, n + 1), np.int64)
        partner = np.where(found.hit, found.partner, n)[~found.ignored]
        np.add.at(matrix, (partner, found.detection_class[~found.ignored]), 1)
        missed = found.truth_class[found.truth_score < 0]
        matrix[:n, n] = np.bincount(missed, minlength=n)
        return matrix


def mistakes(data: Data, least: NDArray[np.float32], iou: float) -> Mistakes:
    """Find the mistakes of the detections above the thresholds.

    Args:
        data: What to compare.
        least: float32, the threshold of each class.
        iou: The least IoU of a match.
    """
    dataset = data.dataset.with_detections(above(data.dataset.detections, least))
    found = pairs(dataset, data.primary, iou, by_class=False)
    wrong = ~found.ignored & (found.partner != found.detection_class)
    missed = found.truth_score < 0
    n = len(data.images)
    errors = np.bincount(found.detection_image[wrong], minlength=n)
    errors += np.bincount(found.truth_image[missed], minlength=n)
    return Mistakes(found, len(data.class_names), errors.astype(np.int64))


def worst_images(data: Data, found: Mistakes) -> list[dict[str, Any]]:
    """Return the images with the most mistakes, each with the reasons."""
    wrong = np.flatnonzero(found.errors).tolist()
    order: list[int] = sorted(wrong, key=lambda i: (-found.errors[i], i))[:_WORST]
    return [
        {
            "asset": data.name_of(i),
            "frame": data.records[i]["frame"],
            "image_id": data.images[i]["id"],
            "errors": int(found.errors[i]),
            "reasons": _reasons(data, found.pairs, i),
        }
        for i in order
    ]


def _reasons(data: Data, found: Pairs, image: int) -> list[str]:
    names = data.class_names
    reasons: Counter[str] = Counter()
    here = (found.truth_image == image) & (found.truth_score < 0)
    reasons.update(f"{names[k]} missed" for k in found.truth_class[here])
    here = (found.detection_image == image) & ~found.ignored
    for k, partner in zip(found.detection_class[here], found.partner[here], strict=True):
        if partner < 0:
            reasons[f"{names[k]} where there is none"] += 1
        elif partner != k:
            reasons[f"{names[partner]} detected as {names[k]}"] += 1
    return [f"{n} {reason}" for reason, n in reasons.most_common()]
