"""Normalization and padding of inputs with one copy; the inputs are bit-identical."""

from __future__ import annotations

from functools import partial
from typing import Any

from pipeline.runnables.speedups.patching import replace_method


def normalize_with_one_copy(module: Any) -> bool:
    """Normalize and pad a model's inputs with one copy instead of four.

    Args:
        module: A Detectron2 model in eval mode.

    Returns:
        Whether the model prepares its inputs as Detectron2's own architectures do.
    """
    from detectron2.modeling import GeneralizedRCNN, PanopticFPN

    if type(module) not in (GeneralizedRCNN, PanopticFPN):
        return False
    constraints = module.backbone.padding_constraints
    if constraints.get("square_size") or "size_divisibility" in constraints:
        return False
    return replace_method(module, "preprocess_image", partial(_normalize, module))


def _normalize(module: Any, inputs: list[dict[str, Any]]) -> Any:
    """Compute what ``GeneralizedRCNN.preprocess_image`` does."""
    from detectron2.structures import ImageList

    images = [item["image"].to(module.pixel_mean.device) for item in inputs]
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    divisor = max(1, module.backbone.size_divisibility)
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
    batch = module.pixel_mean.new_zeros(len(images), height, width * 3)
    for rows, image, (h, w) in zip(batch, images, sizes, strict=True):
        # whole rows, because torch is slow at short innermost dimensions
        mean, std = (
            channels.flatten().repeat(w) for channels in (module.pixel_mean, module.pixel_std)
        )
        pixels = image.permute(1, 2, 0).reshape(h, w * 3)
        rows[:h, : w * 3].copy_(pixels).sub_(mean).div_(std)
    maps = batch.view(len(images), height, width, 3).permute(0, 3, 1, 2)
    return ImageList(maps, sizes)
