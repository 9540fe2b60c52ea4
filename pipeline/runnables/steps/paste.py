"""Pastes the mask head's probabilities into boxes, with the pixels that Detectron2 computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import InstanceMasks
from pipeline.runnables.steps.mask_runs import paste

if TYPE_CHECKING:
    from torch import Tensor

_MAX_PIXELS = 4096  # per call; each pixel needs a copy of its mask's probabilities


def paste_masks(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> InstanceMasks:
    """Paste each mask into its box: the pixels of ``paste_masks_in_image``, without full frames.

    Args:
        probs: float32 ``(N, 1, M, M)`` in [0, 1].
        boxes: float32 ``(N, 4)``, XYXY_ABS, in the frame's pixels.
        size: ``(height, width)`` of the frame.
    """
    import torch
    from torch.nn.functional import grid_sample

    probs = probs.float()  # the head may run in half precision

    def sample(*pixels: NDArray[np.int64]) -> NDArray[Any]:
        """Interpolate single pixels as Detectron2's ``_do_paste_mask`` does."""
        values = []
        indices = torch.from_numpy(np.stack(pixels)).to(probs.device)
        for part in torch.split(indices, _MAX_PIXELS, 1):
            i, at = part[0], part[1:].T.float() + 0.5
            low, high = boxes[i, :2], boxes[i, 2:]
            grid = (at - low) / (high - low) * 2 - 1
            values.append(grid_sample(probs[i], grid[:, None, None], align_corners=False))
        return np.asarray(torch.cat(values).flatten().cpu().numpy())

    return paste(probs[:, 0].cpu().numpy(), boxes.cpu().numpy(), size, sample)
