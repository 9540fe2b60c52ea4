"""Numbers by the position of an object in its image: nine cells, and the edge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runners.evaluate.data import Data
from runners.evaluate.engine import Pairs
from runners.evaluate.numbers.thresholds import rates

_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
_EDGE_PX = 2.0  # an object this close to the edge is probably cut off
_RECALLS = np.linspace(0, 1, 101)  # COCO's


def positions(data: Data, found: Pairs, least: NDArray[np.float32]) -> dict[str, Any]:
    """Return the numbers of the objects in each part of the images.

    An object belongs to the cell of its box's center, in a grid of three by three. As for COCO's
    sizes, a detection counts where its object is, and where it is itself if it has none.

    Args:
        data: What is compared.
        found: Detections and annotations of the same class that belong together.
        least: float32, the threshold of each class.

    Returns:
        Per position ``instances``; ``AP50``; ``precision``, ``recall`` and ``f1`` of the detections
        above the thresholds.
    """
    dataset = data.dataset
    sizes = np.array([(each["width"], each["height"]) for each in dataset.images], np.float64)
    truth = _boxes(dataset.annotations)
    truth_cell, truth_edge = _places(truth[found.truth], sizes[found.truth_image])
    of_annotation = np.zeros(len(truth), np.int64)
    at_edge = np.zeros(len(truth), np.bool_)
    of_annotation[found.truth], at_edge[found.truth] = truth_cell, truth_edge
    own = _boxes(dataset.detections)[found.detection]
    cell, edge = _places(own, sizes[found.detection_image])
    cell[found.hit] = of_annotation[found.partner_truth[found.hit]]
    edge[found.hit] = at_edge[found.partner_truth[found.hit]]
    return {
        name: _numbers(found, detections & ~found.ignored, truths, least)
        for name, detections, truths in _parts(cell, edge, truth_cell, truth_edge)
    }


def _parts(
    cell: NDArray[np.int64],
    edge: NDArray[np.bool_],
    truth_cell: NDArray[np.int64],
    truth_edge: NDArray[np.bool_],
) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    names = (f"{row} {column}" for row in _ROWS for column in _COLUMNS)
    for i, name in enumerate(names):
        yield name, cell == i, truth_cell == i
    yield "at the edge", edge, truth_edge


def _boxes(instances: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Return x, y, width and height."""
    return np.array([each["bbox"] for each in instances], np.float64).reshape(-1, 4)


def _places(
    boxes: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the cell of each box, and whether it is at the edge of the image."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    third = np.clip((low + high) / 2 / sizes * 3, 0, 2).astype(np.int64)
    near = (low <= _EDGE_PX) | (high >= sizes - _EDGE_PX)
    at_edge = near[:, 0] | near[:, 1]
    return third[:, 1] * 3 + third[:, 0], at_edge


def _numbers(
    found: Pairs,
    detections: NDArray[np.bool_],
    truths: NDArray[np.bool_],
    least: NDArray[np.float32],
) -> dict[str, Any]:
    precisions = []
    for k in np.unique(found.truth_class[truths]):
        of_class = detections & (found.detection_class == k)
        n = int((found.truth_class[truths] == k).sum())
        precisions.append(average_precision(found.score[of_class], found.hit[of_class], n))
    kept = detections & (found.score.astype(np.float32) >= least[found.detection_class])
    n = int(truths.sum())
    return {
        "instances": n,
        "AP50": float(np.mean(precisions)) if precisions else None,
        **rates(float(found.hit[kept].sum()), float(kept.sum()), n),
    }


def average_precision(score: NDArray[np.float64], hit: NDArray[np.bool_], n: int) -> float:
    """Return COCO's average precision of a class at one IoU, of ``n`` objects."""
    order = np.argsort(-score, kind="stable")
    right = np.cumsum(hit[order])
    precision = right / np.arange(1, len(order) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(right / n, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(first, len(order))].mean())
