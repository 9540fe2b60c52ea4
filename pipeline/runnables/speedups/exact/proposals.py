"""Region proposals and the normalized input in fewer passes: the same numbers, to the bit.

Detectron2 makes an anchor and a box of every place and then takes the best few hundred; here the
best are taken first.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def choose_first(module: Any) -> bool:
    """Have a model's region proposal network decode only what it then looks at.

    Args:
        module: A Detectron2 model in eval mode.

    Returns:
        Whether it has one of Detectron2's own.
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
    rpn.forward = MethodType(_proposals, rpn)
    return True


def _proposals(rpn: Any, images: Any, features: dict[str, Tensor], _: Any = None) -> Any:
    """Do what ``RPN.forward`` does in eval mode."""
    import torch
    from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals

    maps = [features[name] for name in rpn.in_features]
    pre, post = rpn.pre_nms_topk[False], rpn.post_nms_topk[False]
    scores, anchors, deltas = [], [], []
    levels = zip(*rpn.rpn_head(maps), *_grids(rpn.anchor_generator), strict=True)
    for logits, of_places, stride, cell in levels:
        best, chosen = _best(logits, pre)
        scores.append(best)
        offset = rpn.anchor_generator.offset
        anchors.append(_anchors(chosen, logits.shape[-1], stride, cell, offset))
        deltas.append(_deltas(of_places, chosen, len(cell)))
    all_at_once = (torch.cat(each, dim=1).view(-1, 4) for each in (deltas, anchors))
    boxes = rpn.box2box_transform.apply_deltas(*all_at_once).view(len(maps[0]), -1, 4)
    boxes = boxes.split([each.shape[1] for each in scores], dim=1)
    # False: not in training
    found = find_top_rpn_proposals(
        boxes, scores, images.image_sizes, rpn.nms_thresh, pre, post, rpn.min_box_size, False
    )
    return found, {}


def _grids(generator: Any) -> tuple[Any, Any]:
    return generator.strides, [cell for _, cell in generator.cell_anchors.named_buffers()]


def _best(logits: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return scores and indices, in Detectron2's order of places: row, column, cell anchor."""
    flat = logits.permute(0, 2, 3, 1).flatten(1)
    best, chosen = flat.topk(min(most, flat.shape[1]), dim=1)
    return best, chosen


def _anchors(chosen: Tensor, width: int, stride: int, cell: Tensor, offset: float) -> Tensor:
    """Return the anchors at those indices: float32 ``(N, k, 4)`` in pixels of the input."""
    import torch

    place = chosen // len(cell)
    x = ((place % width) * stride).to(cell.dtype) + offset * stride
    y = ((place // width) * stride).to(cell.dtype) + offset * stride
    return torch.stack([x, y, x, y], dim=-1) + cell[chosen % len(cell)]


def _deltas(deltas: Tensor, chosen: Tensor, cells: int) -> Tensor:
    """Pick from ``(N, cells * 4, H, W)`` what is at those indices: ``(N, k, 4)``."""
    import torch

    n, _, height, width = deltas.shape
    by_place = deltas.permute(0, 2, 3, 1).reshape(n, height * width, cells, 4)
    image = torch.arange(n, device=deltas.device)[:, None]
    return by_place[image, chosen // cells, chosen % cells]


def normalize_in_place(module: Any) -> bool:
    """Have a model normalize and pad its inputs with one copy rather than four.

    Args:
        module: A Detectron2 model in eval mode.

    Returns:
        Whether it prepares its inputs in Detectron2's own way.
    """
    from detectron2.modeling import GeneralizedRCNN, PanopticFPN

    if type(module) not in (GeneralizedRCNN, PanopticFPN):
        return False
    constraints = module.backbone.padding_constraints
    if constraints.get("square_size") or "size_divisibility" in constraints:
        return False
    module.preprocess_image = MethodType(_normalized, module)
    return True


def _normalized(module: Any, inputs: list[dict[str, Any]]) -> Any:
    """Do what ``GeneralizedRCNN.preprocess_image`` does."""
    from detectron2.structures import ImageList

    images = [item["image"].to(module.pixel_mean.device) for item in inputs]
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    divisor = max(1, module.backbone.size_divisibility)
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
    batch = module.pixel_mean.new_zeros(len(images), height, width * 3)
    for rows, image, (h, w) in zip(batch, images, sizes, strict=True):
        # row by row, for torch is slow at short innermost dimensions
        mean, std = (of.flatten().repeat(w) for of in (module.pixel_mean, module.pixel_std))
        pixels = image.permute(1, 2, 0).reshape(h, w * 3)
        rows[:h, : w * 3].copy_(pixels).sub_(mean).div_(std)
    maps = batch.view(len(images), height, width, 3).permute(0, 3, 1, 2)
    return ImageList(maps, sizes)
