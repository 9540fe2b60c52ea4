"""Asking a model for less, where what is left out would have been dropped anyway.

A model drops instances by score before it suppresses overlaps and computes masks, and only an
instance of a higher score can suppress another. So what the first stages would drop by score need
not be computed, and what they keep stays the same. Classes are different: the model's own limit of
instances a frame is shared by all of them, and without the others it would find more of the wanted
ones. They are dropped once the boxes are chosen, before masks and keypoints are computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np


def ask_for_less(
    module: Any, least_score: float, most: int | None, classes: Collection[int] | None = None
) -> None:
    """Leave out the instances that are not wanted as early as that is exact.

    A model whose way of choosing instances is not known is left as it is. In a panoptic model the
    instances also make the map: those that count for it are still computed.

    Args:
        module: A Detectron2 model in eval mode.
        least_score: Instances below it may be left out.
        most: Only so many, those with the highest scores, are wanted; ``None`` for all.
        classes: Ids of those that are wanted, of which ``most`` then counts; ``None`` for all.
    """
    from detectron2.modeling import PanopticFPN

    if type(module) is PanopticFPN:
        least_score = min(least_score, module.combine_instances_score_thresh)
        most = classes = None
    if classes is not None:
        _drop_before_masks(module, classes, most)
        most = None
    below = float(np.nextafter(np.float32(least_score), np.float32(-1)))  # they keep what is above
    for chooser, most_name in _choosers(module):
        chooser.test_score_thresh = max(chooser.test_score_thresh, below)
        if most is not None:
            allowed = getattr(chooser, most_name)
            setattr(chooser, most_name, most if allowed < 0 else min(allowed, most))


def _drop_before_masks(module: Any, classes: Collection[int], most: int | None) -> None:
    import torch

    if (heads := _known_heads(module)) is None:
        return
    wanted = torch.tensor(sorted(classes), dtype=torch.int64, device=module.device)
    go_on = heads.forward_with_given_boxes

    def of_the_wanted(features: Any, instances: list[Any]) -> Any:
        kept = [found[torch.isin(found.pred_classes, wanted)] for found in instances]
        return go_on(features, [_best(found, most) for found in kept])

    heads.forward_with_given_boxes = of_the_wanted


def _best(instances: Any, most: int | None) -> Any:
    if most is None or len(instances) <= most:
        return instances
    best = instances.scores.argsort(descending=True, stable=True)[:most]
    return instances[best.sort().values]


def _choosers(module: Any) -> Iterator[tuple[Any, str]]:
    """Yield what has a ``test_score_thresh``, and its name for the greatest number."""
    from detectron2.modeling import RetinaNet
    from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers

    if type(module) is RetinaNet:
        yield module, "max_detections_per_image"
    if (heads := _known_heads(module)) is None:
        return
    stages = heads.box_predictor if type(heads) is CascadeROIHeads else [heads.box_predictor]
    for predictor in stages:
        if type(predictor) is FastRCNNOutputLayers:
            yield predictor, "test_topk_per_image"


def _known_heads(module: Any) -> Any:
    """Return the heads of a model whose way of choosing instances is known, else ``None``."""
    from detectron2.modeling import GeneralizedRCNN, PanopticFPN
    from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads

    if type(module) not in (GeneralizedRCNN, PanopticFPN):
        return None
    heads = module.roi_heads
    return heads if type(heads) in (CascadeROIHeads, Res5ROIHeads, StandardROIHeads) else None
