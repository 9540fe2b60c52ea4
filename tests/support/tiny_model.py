"""A Mask R-CNN with random weights that builds in an instant, and how to compare what it finds."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

TINY = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.WEIGHTS": "",
    "MODEL.DEVICE": "cpu",
    "INPUT.MIN_SIZE_TEST": 96,
    "INPUT.MAX_SIZE_TEST": 128,
    "DATASETS.TRAIN": (),
    "DATASETS.TEST": (),
}
CLASS_NAMES = ["crack", "spall", "rust"]


@cache
def _zoo_cfg(base: str) -> Any:
    from detectron2.config import get_cfg

    package = Path(str(find_spec("detectron2").origin)).parent
    cfg = get_cfg()
    cfg.merge_from_file(str(package / "model_zoo" / "configs" / f"{base}.yaml"))
    return cfg


def tiny_cfg(base: str = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x", **more: Any) -> Any:
    cfg = _zoo_cfg(base).clone()
    values = TINY | {key.replace("__", "."): value for key, value in more.items()}
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    return cfg


def tiny_predictor(**more: Any) -> Any:
    """A predictor whose weights were changed in memory: no file or address has them."""
    return deepcopy(_predictor(**more))


@cache
def _predictor(**more: Any) -> Any:
    import torch
    from detectron2.engine import DefaultPredictor

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        predictor = DefaultPredictor(tiny_cfg(**more))
    with torch.no_grad():
        for parameter in predictor.model.parameters():
            parameter.mul_(1.01)
    predictor.cfg.MODEL.WEIGHTS = "https://nowhere.invalid/model_final.pkl"
    return predictor


def picture(height: int = 72, width: int = 100, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_same(got: dict[str, Any], want: dict[str, Any]) -> None:
    """Assert that the outputs of two Mask R-CNNs are bit-identical."""
    import torch

    a, b = got["instances"].to("cpu"), want["instances"].to("cpu")
    assert len(a) == len(b) > 0
    assert a.image_size == b.image_size
    assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    assert torch.equal(a.scores, b.scores)
    assert torch.equal(a.pred_classes, b.pred_classes)
    assert torch.equal(a.pred_masks, b.pred_masks)
