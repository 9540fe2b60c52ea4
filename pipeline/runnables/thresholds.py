"""Asking a model for less, where what is left out would have been dropped anyway.

A model drops instances by score before it suppresses overlaps, and only an instance of a higher
score can suppress another. So what the first stages would drop by score need not be computed, and
what they keep stays the same. Classes and limits are different: the model's own limit of instances
a frame is shared by all classes, and counts boxes without an area too, which only its
post-processing drops. So they apply once the boxes are chosen, before masks and keypoints.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

_AREA_FOR_SURE_PX = 1e-3  # of a side: not gone when it is scaled to the frame and clipped


def ask_for_less(
    module: Any, min_score: float, max_instances: int | None, classes: Collection[int] | None = None
) -> None:
    """Leave out the instances that are not wanted as early as that is exact.

    A model whose way of choosing instances is not known is left as it is. In a panoptic model the
    instances also make the map: those that count for it are still computed.

    Args:
        module: A Detectron2 model in eval mode.
        min_score: Instances below it may be left out.
        max_instances: Only so many, those with the highest scores, are wanted; ``None`` for all.
        classes: Ids of the classes to keep, before ``max_instances`` counts; ``None`` for all.
    """
    from detectron2.modeling import PanopticFPN, RetinaNet

    if type(module) is PanopticFPN:
        min_score = min(min_score, module.combine_instances_score_thresh)
        max_instances = classes = None
    below = float(np.nextafter(np.float32(min_score), np.float32(-1)))  # they keep what is above
    if type(module) is RetinaNet:
        module.test_score_thresh = max(module.test_score_thresh, below)
    heads = _known_heads(module)
    if heads is None:
        return
    for predictor in _predictors(heads):
        predictor.test_score_thresh = max(predictor.test_score_thresh, below)
    if classes is not None or max_instances is not None:
        _drop_before_masks(module, classes, max_instances)


def _drop_before_masks(
    module: Any, classes: Collection[int] | None, max_instances: int | None
) -> None:
    import torch

    ids = torch.tensor(sorted(classes or ()), dtype=torch.int64, device=module.device)
    heads = module.roi_heads
    go_on = heads.forward_with_given_boxes

    def wanted(instances: Any) -> Any:
        if classes is not None:
            instances = instances[torch.isin(instances.pred_classes, ids)]
        if max_instances is not None:  # they are sorted, the best first
            corners = instances.pred_boxes.tensor.view(-1, 2, 2)
            has_area = (corners[:, 1] - corners[:, 0]).amin(dim=1) > _AREA_FOR_SURE_PX
            before = has_area.cumsum(0) - has_area.long()
            instances = instances[before < max_instances]
        return instances

    def of_the_wanted(features: Any, instances: list[Any]) -> Any:
        return go_on(features, [wanted(each) for each in instances])

    heads.forward_with_given_boxes = of_the_wanted


def _predictors(heads: Any) -> list[Any]:
    from detectron2.modeling.roi_heads import CascadeROIHeads

    found = heads.box_predictor
    return list(found) if type(heads) is CascadeROIHeads else [found]


def _known_heads(module: Any) -> Any:
    """Return the heads of a model whose way of choosing instances is known, else ``None``."""
    from detectron2.modeling import GeneralizedRCNN, PanopticFPN
    from detectron2.modeling.roi_heads import (
        CascadeROIHeads,
        FastRCNNOutputLayers,
        KRCNNConvDeconvUpsampleHead,
        MaskRCNNConvUpsampleHead,
        Res5ROIHeads,
        StandardROIHeads,
    )

    if type(module) not in (GeneralizedRCNN, PanopticFPN):
        return None
    heads = module.roi_heads
    if type(heads) not in (CascadeROIHeads, Res5ROIHeads, StandardROIHeads):
        return None
    if any(type(each) is not FastRCNNOutputLayers for each in _predictors(heads)):
        return None
    # a head of another kind may score its instances anew, or look at all of them at once
    known = (type(None), KRCNNConvDeconvUpsampleHead, MaskRCNNConvUpsampleHead)
    later = (getattr(heads, name, None) for name in ("mask_head", "keypoint_head"))
    return heads if all(type(head) in known for head in later) else None
