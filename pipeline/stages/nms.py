"""Drop boxes that a better one overlaps: greedy non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError
from pipeline.geometry import greedy_nms
from pipeline.records import Result


@dataclass(frozen=True)
class Nms:
    """Keeps what ``torchvision.ops.nms`` keeps within each class; maps stay as they are.

    Attributes:
        iou_threshold: In [0, 1]; a box that overlaps a better one by more goes. Of equal scores
            the earlier instance is the better one.
        class_agnostic: Whether boxes also suppress those of other classes.

    Raises:
        ConfigError: The threshold is not in [0, 1].
    """

    iou_threshold: float
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.iou_threshold <= 1:
            raise ConfigError(f"iou_threshold: expected 0 to 1, got {self.iou_threshold}")

    def __call__(self, result: Result) -> Result:
        """Return the result without the suppressed instances, the others in their order."""
        p = result.predictions
        groups = np.zeros_like(p.classes) if self.class_agnostic else p.classes
        keep = greedy_nms(p.boxes, p.scores, groups, self.iou_threshold)
        return result if keep.all() else result.replace(p[keep])
