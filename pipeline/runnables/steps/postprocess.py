"""Converts a model's outputs to predictions, with masks in box crops instead of full frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Predictions, Segment
from pipeline.runnables.steps.paste import paste_masks

_FIELDS = ("pred_boxes", "scores", "pred_classes", "pred_masks", "pred_keypoints")

Compute = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@dataclass(slots=True)
class Output:
    """One frame's output of ``forward``.

    Attributes:
        content: See ``compute_function``.
        ready: CUDA event after which the content is on the host; ``None`` if it is already there.
    """

    content: dict[str, Any]
    ready: Any = None

    @property
    def nbytes(self) -> int:
        """Size of its tensors in bytes."""
        tensors = [*self.content.get("instances", {}).values(), self.content.get("sem_seg")]
        return sum(getattr(tensor, "nbytes", 0) for tensor in tensors)


def compute_function(module: Any, *, only_forward: bool) -> Compute:
    """Return a function that runs a model, without the post-processing that pastes masks.

    Custom architectures are run with their post-processing.

    Args:
        module: A Detectron2 model in eval mode.
        only_forward: Whether the model must be called through its ``forward``, because it was
            modified, for example by a hook.

    Returns:
        A function from the model's inputs, one per frame, to a dict per frame: ``shape``, the
        input's (height, width); ``instances``, a dict of tensors by Detectron2's names, in the
        input's pixels and with the mask head's probabilities if ``raw``, otherwise as the model
        returned them; ``sem_seg``, int32 ``(H, W)``; ``panoptic_seg``, as Detectron2 returns it.
        Tensors are on the device.
    """
    from detectron2.modeling import GeneralizedRCNN, PanopticFPN

    kinds = [kind for kind in (PanopticFPN, GeneralizedRCNN) if _computes_as(kind, module)]
    if not kinds or only_forward:
        return lambda inputs: [_checked(output) for output in _outputs(module, inputs)]

    def compute(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = module.inference(inputs, do_postprocess=False)
        instances, sem_segs = found if kinds[0] is PanopticFPN else (found, [None] * len(inputs))
        return [raw_output(*each) for each in zip(instances, sem_segs, inputs, strict=True)]

    return compute


def _computes_as(kind: Any, module: Any) -> bool:
    names = ("forward", "inference", "_postprocess")
    return all(getattr(type(module), name, None) is getattr(kind, name) for name in names)


def _outputs(module: Any, inputs: list[dict[str, Any]]) -> Any:
    outputs = module(inputs)
    if len(outputs) != len(inputs):
        raise ValueError(f"the model returns {len(outputs)} outputs for {len(inputs)} images")
    return outputs


def _checked(output: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"raw": False}
    if "instances" in output:
        kept["instances"] = _fields(output["instances"])
        kept["shape"] = output["instances"].image_size
    if "sem_seg" in output:
        kept["sem_seg"] = output["sem_seg"].argmax(dim=0).int()
    if "panoptic_seg" in output:
        kept["panoptic_seg"] = output["panoptic_seg"]
        if kept["panoptic_seg"][1] is None:
            raise ValueError("the panoptic_seg that it returns has no list of segments")
    if len(kept) == 1:
        raise ValueError("its output has neither instances nor sem_seg nor panoptic_seg")
    return kept


def raw_output(instances: Any, sem_seg: Any, item: dict[str, Any]) -> dict[str, Any]:
    """Return one frame's dict (see ``compute_function``) from ``GeneralizedRCNN.inference``."""
    from detectron2.modeling.postprocessing import sem_seg_postprocess

    kept = {"raw": True, "instances": _fields(instances), "shape": instances.image_size}
    if sem_seg is not None:
        scores = sem_seg_postprocess(sem_seg, kept["shape"], item["height"], item["width"])
        kept["sem_seg"] = scores.argmax(dim=0).int()
    return kept


def _fields(instances: Any) -> dict[str, Any]:
    if missing := [name for name in _FIELDS[:3] if not instances.has(name)]:
        raise ValueError(f"its instances have no {', '.join(missing)}")
    if instances.pred_boxes.tensor.shape[1] != 4:
        raise ValueError(f"its boxes are {type(instances.pred_boxes).__name__}, not Boxes")
    found = {name: instances.get(name) for name in _FIELDS if instances.has(name)}
    return found | {"pred_boxes": found["pred_boxes"].tensor}


@dataclass(slots=True)
class Finish:
    """Converts outputs to predictions, on any thread and on the device of their tensors.

    Attributes:
        module: The model, whose options combine panoptic maps.
        categories: Names by class id.
    """

    module: Any
    categories: Categories

    def __call__(self, output: dict[str, Any], size: tuple[int, int]) -> Predictions:
        """Return the predictions of one frame's output.

        Args:
            output: See ``compute_function``.
            size: ``(height, width)`` of the frame in pixels.
        """
        fields: dict[str, Any] = {}
        masks = None
        if "instances" in output:
            instances, masks = _scaled(output, size)
            fields["boxes"] = _array(instances.pred_boxes.tensor)
            fields["scores"] = _array(instances.scores)
            fields["classes"] = _array(instances.pred_classes)
            fields["masks"] = masks
            if instances.has("pred_keypoints"):
                fields["keypoints"] = _array(instances.pred_keypoints)
        if "sem_seg" in output:
            fields["sem_seg"] = _array(output["sem_seg"])
            fields["stuff_names"] = self.categories.stuff_names
            if output["raw"]:
                output = output | {"panoptic_seg": self._combined(instances, masks, output)}
        if "panoptic_seg" in output:
            panoptic, infos = output["panoptic_seg"]
            fields["panoptic_seg"] = _array(panoptic)
            fields["segments"] = _segments(fields["panoptic_seg"], infos, self.categories)
        return Predictions.empty(size, self.categories.thing_names).replace(**fields)

    def _combined(self, found: Any, masks: InstanceMasks | None, output: dict[str, Any]) -> Any:
        """Combine the panoptic map as ``PanopticFPN.inference`` does, without full-frame masks."""
        from detectron2.modeling.meta_arch.panoptic_fpn import (
            combine_semantic_and_instance_outputs,
        )
        from detectron2.structures import Instances

        return combine_semantic_and_instance_outputs(
            Instances(
                found.image_size,
                scores=found.scores,
                pred_classes=found.pred_classes,
                pred_masks=_Bitmaps(masks),
            ),
            output["sem_seg"],
            self.module.combine_overlap_thresh,
            self.module.combine_stuff_area_thresh,
            self.module.combine_instances_score_thresh,
        )


def _scaled(output: dict[str, Any], size: tuple[int, int]) -> tuple[Any, InstanceMasks | None]:
    """Scale to the frame's pixels as Detectron2 does, and paste the masks into crops."""
    from detectron2.modeling.postprocessing import detector_postprocess
    from detectron2.structures import Boxes, Instances

    fields = dict(output["instances"])
    masks = fields.pop("pred_masks", None)
    boxes = Boxes(fields.pop("pred_boxes").clone())  # scaled in place below
    instances = Instances(output["shape"], pred_boxes=boxes, **fields)
    if not output["raw"]:
        if masks is None:
            return instances, None
        return instances, InstanceMasks.from_dense(_array(masks) > 0)
    if instances.has("pred_keypoints"):
        instances.pred_keypoints = instances.pred_keypoints.clone()
    if masks is not None:
        instances.mask_probs = masks  # a name that detector_postprocess does not paste
    instances = detector_postprocess(instances, *size)
    if masks is None:
        return instances, None
    return instances, paste_masks(instances.mask_probs, instances.pred_boxes.tensor, size)


@dataclass
class _Bitmaps:
    """Full-frame masks with a tensor's interface, each created only when it is accessed."""

    masks: Any
    device: Any = "cpu"

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, i: Any) -> Any:
        import torch

        return torch.from_numpy(self.masks[[int(i)]].dense()[0]).to(self.device)

    def to(self, *, dtype: Any, device: Any) -> _Bitmaps:
        return _Bitmaps(self.masks, device)


def _segments(
    panoptic: NDArray[np.int32], infos: list[dict[str, Any]], categories: Categories
) -> tuple[Segment, ...]:
    areas = np.bincount(panoptic.ravel(), minlength=len(infos) + 1)
    segments = []
    for info in infos:
        is_thing, class_id = bool(info["isthing"]), int(info["category_id"])
        names = categories.thing_names if is_thing else categories.stuff_names
        segments.append(
            Segment(
                id=int(info["id"]),
                class_id=class_id,
                class_name=names[class_id],
                is_thing=is_thing,
                score=float(info["score"]) if "score" in info else None,
                area_px=int(areas[info["id"]]),
            )
        )
    return tuple(segments)


def _array(tensor: Any) -> NDArray[Any]:
    return np.asarray(tensor.cpu().numpy())
