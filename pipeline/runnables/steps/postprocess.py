"""From a model's outputs to predictions: masks in their box crops, never in full frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Predictions, Segment
from pipeline.runnables.state.stateless import Doubt
from pipeline.runnables.steps.paste import pasted

_FIELDS = ("pred_boxes", "scores", "pred_classes", "pred_masks", "pred_keypoints")


Compute = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def computing(module: Any, doubts: Iterable[Doubt]) -> Compute:
    """Return what runs a model, short of its own post-processing where that would paste masks.

    An architecture that computes its results in its own way is asked for them as they are.

    Args:
        module: A Detectron2 model in eval mode.
        doubts: What was put into it, by others than d2run, may need its own ``forward``.

    Returns:
        A function. It takes the model's inputs, one per frame, and returns a dict per frame, of
        tensors on the device and plain values: ``shape``, the input's (height, width);
        ``instances``, a dict of tensors by Detectron2's names, in the pixels of the input and with
        the mask head's probabilities if ``raw``, else as the model gave them; ``sem_seg``, int32
        ``(H, W)``; ``panoptic_seg``, as Detectron2 has it.
    """
    from detectron2.modeling import GeneralizedRCNN, PanopticFPN

    kinds = [kind for kind in (PanopticFPN, GeneralizedRCNN) if _computes_as(kind, module)]
    if not kinds or any(doubt.changed and not doubt.where for doubt in doubts):
        return lambda inputs: [_as_given(output) for output in _outputs(module, inputs)]

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
        raise ValueError(f"it returns {len(outputs)} results for {len(inputs)} images")
    return outputs


def _as_given(output: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"raw": False}
    if "instances" in output:
        kept["instances"] = _fields(output["instances"])
        kept["shape"] = output["instances"].image_size
    if "sem_seg" in output:
        kept["sem_seg"] = output["sem_seg"].argmax(dim=0).int()
    if "panoptic_seg" in output:
        kept["panoptic_seg"] = output["panoptic_seg"]
        if kept["panoptic_seg"][1] is None:
            raise ValueError("its panoptic_seg does not say what its segments are")
    if len(kept) == 1:
        raise ValueError("its output has neither instances nor sem_seg nor panoptic_seg")
    return kept


def raw_output(instances: Any, sem_seg: Any, item: dict[str, Any]) -> dict[str, Any]:
    """Return one frame's dict, see ``computing``, of what ``GeneralizedRCNN.inference`` gives."""
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
    """Makes predictions of outputs; on any thread, where the tensors are.

    Attributes:
        module: The model, for how a panoptic map is combined.
        categories: Names by class id.
    """

    module: Any
    categories: Categories

    def __call__(self, output: dict[str, Any], size: tuple[int, int]) -> Predictions:
        """Return the predictions of what ``compute`` gave for a frame of ``size``."""
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
        """Do what ``PanopticFPN.inference`` does at its end, without full-frame masks."""
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
    """Scale to the frame's pixels as Detectron2 does, and paste the masks into crops.

    Meanwhile the head's probabilities have a name that ``detector_postprocess`` does not know, or
    it would paste them into full frames.
    """
    from detectron2.modeling.postprocessing import detector_postprocess
    from detectron2.structures import Boxes, Instances

    fields = dict(output["instances"])
    masks = fields.pop("pred_masks", None)
    boxes = Boxes(fields.pop("pred_boxes").clone())  # it scales in place
    instances = Instances(output["shape"], pred_boxes=boxes, **fields)
    if not output["raw"]:
        if masks is None:
            return instances, None
        return instances, InstanceMasks.from_dense(_array(masks) > 0)
    if instances.has("pred_keypoints"):
        instances.pred_keypoints = instances.pred_keypoints.clone()
    if masks is not None:
        instances.mask_probs = masks
    instances = detector_postprocess(instances, *size)
    if masks is None:
        return instances, None
    return instances, pasted(instances.mask_probs, instances.pred_boxes.tensor, size)


@dataclass
class _Bitmaps:
    """Full-frame masks as a tensor gives them, each made only when it is looked at."""

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
