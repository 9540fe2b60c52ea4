"""Region proposals with fewer boxes decoded; the proposals are bit-identical.

Detectron2 decodes a box at every location of every map and then keeps the few hundred with the
highest scores. Here the highest scores are selected first.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.runnables.speedups.patching import replace_method

if TYPE_CHECKING:
    from torch import Tensor


def decode_best_proposals(module: Any) -> bool:
    """Decode only the boxes with the highest scores in a model's region proposal network.

    Args:
        module: A Detectron2 model in eval mode.

    Returns:
        Whether the model has Detectron2's own region proposal network.
    """
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.proposal_generator.rpn import RPN

    rpn: Any = getattr(module, "proposal_generator", None)
    if type(rpn) is not RPN:
        return False
    if type(rpn.anchor_generator) is not DefaultAnchorGenerator:
        return False
    if type(rpn.box2box_transform) is not Box2BoxTransform:
        return False
    return replace_method(rpn, "forward", partial(_propose, rpn))


def _propose(rpn: Any, images: Any, features: dict[str, Tensor], gt_instances: Any = None) -> Any:
    """Compute what ``RPN.forward`` does in eval mode."""
    import torch
    from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals

    maps = [features[name] for name in rpn.in_features]
    pre, post = rpn.pre_nms_topk[False], rpn.post_nms_topk[False]
    scores, anchors, deltas = [], [], []
    levels = zip(*rpn.rpn_head(maps), *_grids(rpn.anchor_generator), strict=True)
    for logits, level_deltas, stride, cell_anchors in levels:
        best, chosen = _top_scores(logits, pre)
        scores.append(best)
        offset = rpn.anchor_generator.offset
        anchors.append(_anchors(chosen, logits.shape[-1], stride, cell_anchors, offset))
        deltas.append(_deltas(level_deltas, chosen, len(cell_anchors)))
    of_all_levels = (torch.cat(each, dim=1).view(-1, 4) for each in (deltas, anchors))
    boxes = rpn.box2box_transform.apply_deltas(*of_all_levels).view(len(maps[0]), -1, 4)
    boxes = boxes.split([each.shape[1] for each in scores], dim=1)
    is_training = False
    found = find_top_rpn_proposals(
        boxes, scores, images.image_sizes, rpn.nms_thresh, pre, post, rpn.min_box_size, is_training
    )
    return found, {}


def _grids(generator: Any) -> tuple[Any, Any]:
    return generator.strides, [anchors for _, anchors in generator.cell_anchors.named_buffers()]


def _top_scores(logits: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the ``n`` highest scores and their indices into ``(row, column, cell anchor)``."""
    flat = logits.permute(0, 2, 3, 1).flatten(1)
    best, chosen = flat.topk(min(n, flat.shape[1]), dim=1)
    return best, chosen


def _anchors(
    chosen: Tensor, width: int, stride: int, cell_anchors: Tensor, offset: float
) -> Tensor:
    """Return the anchors at indices: float32 ``(N, k, 4)``, in pixels of the model's input."""
    import torch

    location = chosen // len(cell_anchors)
    x = ((location % width) * stride).to(cell_anchors.dtype) + offset * stride
    y = ((location // width) * stride).to(cell_anchors.dtype) + offset * stride
    return torch.stack([x, y, x, y], dim=-1) + cell_anchors[chosen % len(cell_anchors)]


def _deltas(deltas: Tensor, chosen: Tensor, cells: int) -> Tensor:
    """Return the deltas at indices, of ``(N, cells * 4, H, W)``: ``(N, k, 4)``."""
    import torch

    n, _, height, width = deltas.shape
    by_location = deltas.permute(0, 2, 3, 1).reshape(n, height * width, cells, 4)
    image = torch.arange(n, device=deltas.device)[:, None]
    return by_location[image, chosen // cells, chosen % cells]
