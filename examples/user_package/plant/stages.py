"""Two stages: a class, and a function that returns a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.records import Result
from pipeline.validation import check_number


@dataclass(frozen=True)
class NotAtEdge:
    """Drops instances whose box comes within ``margin_px`` pixels of the frame's edge."""

    margin_px: float = 1

    def __post_init__(self) -> None:
        check_number("margin_px", self.margin_px, 0)

    def __call__(self, result: Result) -> Result:
        boxes = result.predictions.boxes  # x1, y1, x2, y2
        height, width = result.frame.size
        to_edge = np.hstack([boxes[:, :2], [width, height] - boxes[:, 2:]])
        inside = to_edge.min(axis=1) > self.margin_px
        return result if inside.all() else result.replace(result.predictions[inside])


def at_least(n: int) -> Callable[[Result], Result | None]:
    """Drop frames with fewer than ``n`` instances."""
    return lambda result: result if len(result.predictions) >= n else None
