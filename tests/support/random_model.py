"""Architectures of the zoo with seeded random weights, and what DefaultPredictor makes of them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from pipeline.records import Categories, Predictions

ARCHITECTURES = {
    "mask_rcnn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
    "mask_rcnn_c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x.yaml",
    "faster_rcnn": "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
    "cascade_mask_rcnn": "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml",
    "keypoint_rcnn": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml",
    "retinanet": "COCO-Detection/retinanet_R_50_FPN_3x.yaml",
    "panoptic_fpn": "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml",
    "semantic_fpn": "Misc/semantic_R_50_FPN_1x.yaml",
}
# a quarter of the channels: all kinds of layers in a tenth of the time
NARROW = (
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 16,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 64,
    "MODEL.ROI_BOX_HEAD.FC_DIM", 256, "MODEL.ROI_MASK_HEAD.CONV_DIM", 64,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (64,) * 8, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 64,
)  # fmt: skip
PHOTOS = ("chelsea", "astronaut")


@dataclass
class RandomModel:
    """A zoo architecture with seeded random weights."""

    config: str
    opts: tuple[Any, ...] = ()
    spread: float = 20  # of the logits; large ones saturate the scores
    name: str = "random"
    narrow: bool = True
    _loaded: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        things = 1 if "Keypoints" in self.config else 80
        self.categories = Categories(
            thing_names=tuple(f"thing_{i}" for i in range(things)),
            stuff_names=tuple(f"stuff_{i}" for i in range(54)),
        )

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def cfg(self) -> Any:
        from importlib.util import find_spec
        from pathlib import Path

        from detectron2.config import get_cfg

        package = Path(str(find_spec("detectron2").origin)).parent
        cfg = get_cfg()
        cfg.merge_from_file(str(package / "model_zoo" / "configs" / self.config))
        cfg.merge_from_list(
            [
                "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu",
                "INPUT.MIN_SIZE_TEST", 160, "INPUT.MAX_SIZE_TEST", 240,
                "MODEL.RPN.POST_NMS_TOPK_TEST", 200, "TEST.DETECTIONS_PER_IMAGE", 40,
                "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0,
                "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0,
                "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.9,
                "MODEL.RETINANET.NMS_THRESH_TEST", 0.9,
                "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0125,
                "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 64,
                *(NARROW if self.narrow else ()),
                *self.opts,
            ]
        )  # fmt: skip
        return cfg

    def load(self, device: str) -> tuple[Any, Any]:
        """A module of the caller's own each time, as from the store."""
        cfg, module = self.shared(device)
        return cfg.clone(), deepcopy(module)

    def shared(self, device: str) -> tuple[Any, Any]:
        if device not in self._loaded:
            self._loaded[device] = self._load(device)
        return self._loaded[device]

    def forget(self) -> None:
        self._loaded.clear()

    def _load(self, device: str) -> tuple[Any, Any]:
        import torch
        from detectron2.modeling import build_model

        cfg = self.cfg()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            module = build_model(cfg).eval()
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    if ".conv3.weight" in name:  # residual sums must not grow from block to block
                        parameter.mul_(0.2)
                    elif "cls_score" in name or "mask_head.predictor" in name:
                        parameter.mul_(
                            self.spread
                        )  # spread the logits: scores must not all be the same
        cfg.MODEL.DEVICE = device
        return cfg, module.to(device)


def photo(name: str) -> np.ndarray:
    from skimage import data

    return cv2.cvtColor(getattr(data, name)(), cv2.COLOR_RGB2BGR)


def reference(
    model: RandomModel, images: list[np.ndarray], device: str = "cpu"
) -> list[dict[str, Any]]:
    """What DefaultPredictor says, with the same weights; on the host."""
    from detectron2.engine import DefaultPredictor

    if ("predictor", device) not in model._loaded:
        cfg, module = model.shared(device)
        predictor = DefaultPredictor(cfg)
        predictor.model = module  # the very weights, rather than a second model of random ones
        model._loaded["predictor", device] = predictor
    predictor = model._loaded["predictor", device]
    return [_on_host(predictor(image)) for image in images]


def _on_host(output: dict[str, Any]) -> dict[str, Any]:
    if "panoptic_seg" in output:
        panoptic, infos = output["panoptic_seg"]
        output["panoptic_seg"] = panoptic.cpu(), infos
    moved = ("instances", "sem_seg")
    return output | {key: output[key].to("cpu") for key in moved if key in output}


def assert_equal(got: Predictions, want: dict[str, Any], box_px: float) -> None:
    """Compare; maps pixel for pixel, and the masks' RLE byte for byte."""
    from pycocotools import mask as coco_mask

    if "instances" in want:
        instances = want["instances"]
        assert len(got) == len(instances)
        boxes = instances.pred_boxes.tensor.numpy()
        np.testing.assert_allclose(got.boxes, boxes, rtol=0, atol=box_px)
        np.testing.assert_allclose(got.scores, instances.scores.numpy(), rtol=0, atol=1e-4)
        assert got.classes.tolist() == instances.pred_classes.tolist()
        if instances.has("pred_masks"):
            assert got.masks is not None
            for rle, bitmap in zip(got.masks.rle(), instances.pred_masks.numpy(), strict=True):
                expected = coco_mask.encode(np.asfortranarray(bitmap))
                assert rle["counts"] == expected["counts"].decode()
        assert (got.masks is not None) == instances.has("pred_masks")
        if instances.has("pred_keypoints"):
            assert got.keypoints is not None
            np.testing.assert_allclose(
                got.keypoints, instances.pred_keypoints.numpy(), rtol=0, atol=max(box_px, 1e-3)
            )
    if "sem_seg" in want:
        assert got.sem_seg is not None
        np.testing.assert_array_equal(got.sem_seg, want["sem_seg"].argmax(dim=0).numpy())
    if "panoptic_seg" in want:
        panoptic, infos = want["panoptic_seg"]
        np.testing.assert_array_equal(got.panoptic_seg, panoptic.numpy())
        assert [(s.id, s.class_id, s.is_thing) for s in got.segments] == [
            (info["id"], info["category_id"], info["isthing"]) for info in infos
        ]
        for segment in got.segments:
            assert segment.area_px == int((got.panoptic_seg == segment.id).sum())


def assert_near(got: Predictions, want: dict[str, Any], share: float = 1.0) -> None:
    """Compare after pairing instances: near scores may change places in a shared forward.

    ``share`` of the instances must be within 1e-2 px and 1e-4 in score of their pair.
    """
    if "instances" in want:
        instances = want["instances"]
        assert len(got) == len(instances)
        boxes = np.abs(got.boxes[:, None] - instances.pred_boxes.tensor.numpy()).max(axis=2)
        scores = np.abs(got.scores[:, None] - instances.scores.numpy())
        same = got.classes[:, None] == instances.pred_classes.numpy()
        paired = (same & (boxes <= 1e-2) & (scores <= 1e-4)).any(axis=1)
        assert paired.mean() >= share
    if "sem_seg" in want:
        assert (got.sem_seg != want["sem_seg"].argmax(dim=0).numpy()).mean() < 1e-3
