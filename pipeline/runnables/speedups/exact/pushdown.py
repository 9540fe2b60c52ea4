"""Skips the computation of instances that the leading stages drop.

A model drops instances with low scores before it suppresses overlaps, and only an instance with a
higher score can suppress another. So instances below the leading stages' threshold need not be
computed, and the remaining ones do not change. Classes and limits are different: the model's limit
of instances per frame is shared by all classes, and also counts boxes without an area, which are
dropped only in its post-processing. So these two apply after the boxes are selected, before masks
and keypoints are computed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from pipeline.runnables.speedups.patching import Call, wrap_method

_MIN_SIDE_PX = 1e-3  # a longer side is not 0 after scaling to the frame and clipping


def push_down(
    module: Any, min_score: float, max_instances: int | None, classes: Collection[int] | None = None
) -> bool:
    """Skip instances that later stages drop, as early as possible without changing the others.

    The panoptic map is also made of instances: a panoptic model still computes those it needs.

    Args:
        module: A Detectron2 model in eval mode.
        min_score: Instances with a lower score may be skipped.
        max_instances: Number of instances that are needed, those with the highest scores; ``None``
            for all.
        classes: Ids of the classes to keep, before ``max_instances`` counts; ``None`` for all.

    Returns:
        Whether the model selects instances in one of Detectron2's own ways. Others do not change.
    """
    from detectron2.modeling import PanopticFPN, RetinaNet

    if type(module) is PanopticFPN:
        min_score = min(min_score, module.combine_instances_score_thresh)
        max_instances = classes = None
    # the models keep scores above their threshold, not those equal to it
    below = float(np.nextafter(np.float32(min_score), np.float32(-1)))
    if type(module) is RetinaNet:
        module.test_score_thresh = max(module.test_score_thresh, below)
        return True
    heads = _known_heads(module)
    if heads is None:
        return False
    for predictor in _predictors(heads):
        predictor.test_score_thresh = max(predictor.test_score_thresh, below)
    if classes is not None or max_instances is not None:
        _drop_before_masks(module, classes, max_instances)
    return True


def _drop_before_masks(
    module: Any, classes: Collection[int] | None, max_instances: int | None
) -> None:
    import torch

    ids = torch.tensor(sorted(classes or ()), dtype=torch.int64, device=module.device)

    def needed(instances: Any) -> Any:
        if classes is not None:
            instances = instances[torch.isin(instances.pred_classes, ids)]
        if max_instances is not None:  # sorted by score, highest first
            corners = instances.pred_boxes.tensor.view(-1, 2, 2)
            has_area = (corners[:, 1] - corners[:, 0]).amin(dim=1) > _MIN_SIDE_PX
            before = has_area.cumsum(0) - has_area.long()
            instances = instances[before < max_instances]
        return instances

    def wrapper(compute: Call) -> Call:
        return lambda features, instances: compute(features, [needed(each) for each in instances])

    wrap_method(module.roi_heads, "forward_with_given_boxes", wrapper)


def _predictors(heads: Any) -> list[Any]:
    from detectron2.modeling.roi_heads import CascadeROIHeads

    found = heads.box_predictor
    return list(found) if type(heads) is CascadeROIHeads else [found]


def _known_heads(module: Any) -> Any:
    """Return the heads of a model that selects instances in a known way, else ``None``."""
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
    # a custom head may change the scores, or compute with all instances together
    known = (type(None), KRCNNConvDeconvUpsampleHead, MaskRCNNConvUpsampleHead)
    later = (getattr(heads, name, None) for name in ("mask_head", "keypoint_head"))
    return heads if all(type(head) in known for head in later) else None
