"""A stage for greedy non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.geometry import greedy_nms
from pipeline.records import Result
from pipeline.validation import check_flag, check_number


@dataclass(frozen=True)
class Nms:
    """Keeps what ``torchvision.ops.nms`` keeps within each class; maps do not change.

    Attributes:
        iou_threshold: In [0, 1]. A box that overlaps a better one by more is dropped. Of equal
            scores, the earlier instance is better.
        class_agnostic: Whether boxes also suppress boxes of other classes.

    Raises:
        ConfigError: ``iou_threshold`` is not in [0, 1], or ``class_agnostic`` not true or false.
    """

    iou_threshold: float
    class_agnostic: bool = False
    needs_pixels = False

    def __post_init__(self) -> None:
        check_number("iou_threshold", self.iou_threshold, 0, 1)
        check_flag("class_agnostic", self.class_agnostic)

    def __call__(self, result: Result) -> Result:
        """Return the result without the suppressed instances, in the same order."""
        p = result.predictions
        groups = np.zeros_like(p.classes) if self.class_agnostic else p.classes
        keep = greedy_nms(p.boxes, p.scores, groups, self.iou_threshold)
        return result if keep.all() else result.replace(p[keep])
