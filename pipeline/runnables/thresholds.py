"""Asking a model for less, where what is left out would have been dropped anyway.

A model drops instances by score before it suppresses overlaps and computes masks, and only an
instance of a higher score can suppress another. So what the first stages would drop by score need
not be computed, and what they keep stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def ask_for_less(module: Any, least_score: float, most: int | None) -> None:
    """Raise the score threshold and lower the number of instances, where that is exact.

    A model whose way of choosing instances is not known is left as it is. In a panoptic model the
    instances also make the map: those that count for it are still computed.

    Args:
        module: A Detectron2 model in eval mode.
        least_score: Instances below it may be left out.
        most: Only so many, those with the highest scores, are wanted; ``None`` for all.
    """
    from detectron2.modeling import PanopticFPN

    if type(module) is PanopticFPN:
        least_score = min(least_score, module.combine_instances_score_thresh)
        most = None
    below = float(np.nextafter(np.float32(least_score), np.float32(-1)))  # they keep what is above
    for chooser, most_name in _choosers(module):
        chooser.test_score_thresh = max(chooser.test_score_thresh, below)
        if most is not None:
            allowed = getattr(chooser, most_name)
            setattr(chooser, most_name, most if allowed < 0 else min(allowed, most))


def _choosers(module: Any) -> Iterator[tuple[Any, str]]:
    """Yield what has a ``test_score_thresh``, and its name for the greatest number."""
    from detectron2.modeling import GeneralizedRCNN, PanopticFPN, RetinaNet
    from detectron2.modeling.roi_heads import (
        CascadeROIHeads,
        FastRCNNOutputLayers,
        Res5ROIHeads,
        StandardROIHeads,
    )

    if type(module) is RetinaNet:
        yield module, "max_detections_per_image"
    if type(module) not in (GeneralizedRCNN, PanopticFPN):
        return
    heads = module.roi_heads
    if type(heads) not in (CascadeROIHeads, Res5ROIHeads, StandardROIHeads):
        return
    stages = heads.box_predictor if type(heads) is CascadeROIHeads else [heads.box_predictor]
    for predictor in stages:
        if type(predictor) is FastRCNNOutputLayers:
            yield predictor, "test_topk_per_image"
