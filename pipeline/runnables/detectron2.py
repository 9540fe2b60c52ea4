"""A Detectron2 model as a runnable: what ``DefaultPredictor`` computes, for a list of frames.

The resize (Pillow), the colour order (``INPUT.FORMAT``), the padding and the arithmetic are those
of ``detectron2.engine.DefaultPredictor``; only what comes after the model's heads differs: masks
are pasted into their box crops, never into full frames, with the same pixels as a result.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.devices import device_name, resolve_device
from pipeline.errors import ConfigError
from pipeline.masks import InstanceMasks
from pipeline.protocols import Model
from pipeline.types import Categories, Frame, Predictions, Segment

_MASK_THRESHOLD = 0.5  # of detectron2.modeling.postprocessing.detector_postprocess


@dataclass(eq=False)
class Detectron2:
    """Runs a Detectron2 model on a device.

    Attributes:
        model: What to load.
        device: ``auto`` (cuda:0 if there is one, else cpu), ``cpu``, ``cuda``, ``cuda:N``; once
            entered, the device in use.
        exact: One frame a forward, whatever the batch: the results of ``DefaultPredictor`` to the
            bit. By default so on the CPU, where several frames a forward gain nothing; elsewhere
            frames share a forward, and the heads' other row counts move the last digits.
        class_names: Names by class id.
        threads: Of torch on the CPU, once entered; their number moves the last digits.
    """

    model: Model
    device: str = "auto"
    exact: bool | None = None
    class_names: tuple[str, ...] = field(init=False)
    threads: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.class_names = self.model.categories.thing_names
        self._module: Any = None

    def __enter__(self) -> Detectron2:
        """Load the weights onto the device.

        Raises:
            DeviceError: The device does not exist; names those that do.
            StoreError: The weights cannot be had or do not fit.
        """
        import torch

        self.device = resolve_device(self.device)
        self.threads = torch.get_num_threads() if self.device == "cpu" else None
        _to_the_log("torch")
        self._cfg, self._module = self.model.load(self.device)
        if self._cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ConfigError(f"INPUT.FORMAT is {self._cfg.INPUT.FORMAT}; RGB or BGR is supported")
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Free the weights."""
        self._module = None
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        """Return the device in use and its name, for the record."""
        name = device_name(self.device)
        return {"device": self.device, "name": name, "threads": self.threads}

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        """Return the predictions of each frame, in the frame's own pixels.

        Only frames of equal resized shape share a forward, so no frame is padded for the sake of
        another.
        """
        import torch

        exact = self.device == "cpu" if self.exact is None else self.exact
        sharing: dict[object, list[int]] = defaultdict(list)
        inputs = [self._input(frame) for frame in frames]
        for i, item in enumerate(inputs):
            sharing[i if exact else item["image"].shape].append(i)
        predictions: dict[int, Predictions] = {}
        with torch.inference_mode():
            for positions in sharing.values():
                outputs = self._forward([inputs[i] for i in positions])
                for i, output in zip(positions, outputs, strict=True):
                    predictions[i] = self._predictions(output, frames[i].size)
        return [predictions[i] for i in range(len(frames))]

    def _input(self, frame: Frame) -> dict[str, Any]:
        import torch
        from detectron2.data.transforms import ResizeShortestEdge

        image = frame.image if self._cfg.INPUT.FORMAT == "BGR" else frame.image[:, :, ::-1]
        size = self._cfg.INPUT.MIN_SIZE_TEST
        resize = ResizeShortestEdge([size, size], self._cfg.INPUT.MAX_SIZE_TEST)
        resized = resize.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        height, width = frame.size
        return {"image": tensor, "height": height, "width": width}

    def _forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        from detectron2.modeling import GeneralizedRCNN, PanopticFPN

        # an architecture that computes its results in its own way is asked for them as they are
        inference = getattr(type(self._module), "inference", None)
        if inference is GeneralizedRCNN.inference:
            raw = self._module.inference(inputs, do_postprocess=False)
            return [
                _postprocessed(instances, item) for instances, item in zip(raw, inputs, strict=True)
            ]
        if inference is PanopticFPN.inference:
            return self._panoptic(inputs)
        return list(self._module(inputs))

    def _panoptic(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Do what ``PanopticFPN.inference`` does after the heads, without full-frame masks."""
        from detectron2.modeling.postprocessing import sem_seg_postprocess

        outputs = []
        raw, sem_segs = self._module.inference(inputs, do_postprocess=False)
        for instances, sem_seg, item in zip(raw, sem_segs, inputs, strict=True):
            height, width = item["height"], item["width"]
            output = _postprocessed(instances, item)
            output["sem_seg"] = sem_seg_postprocess(sem_seg, item["image"].shape[1:], height, width)
            output["panoptic_seg"] = self._combined(output)
            outputs.append(output)
        return outputs

    def _combined(self, output: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
        from detectron2.modeling.meta_arch.panoptic_fpn import (
            combine_semantic_and_instance_outputs,
        )
        from detectron2.structures import Instances

        module, found = self._module, output["instances"]
        instances = Instances(
            found.image_size,
            scores=found.scores,
            pred_classes=found.pred_classes,
            pred_masks=_Bitmaps(output["masks"]),
        )
        combined: tuple[Any, list[dict[str, Any]]] = combine_semantic_and_instance_outputs(
            instances,
            output["sem_seg"].argmax(dim=0),
            module.combine_overlap_thresh,
            module.combine_stuff_area_thresh,
            module.combine_instances_score_thresh,
        )
        return combined

    def _predictions(self, output: dict[str, Any], size: tuple[int, int]) -> Predictions:
        fields: dict[str, Any] = {}
        categories = self.model.categories
        if "instances" in output:
            instances = output["instances"]
            fields["boxes"] = _array(instances.pred_boxes.tensor)
            fields["scores"] = _array(instances.scores)
            fields["classes"] = _array(instances.pred_classes)
            if "masks" in output:
                fields["masks"] = output["masks"]
            elif instances.has("pred_masks"):
                fields["masks"] = InstanceMasks.from_dense(_array(instances.pred_masks) > 0)
            if instances.has("pred_keypoints"):
                fields["keypoints"] = _array(instances.pred_keypoints)
        if "sem_seg" in output:
            fields["sem_seg"] = _array(output["sem_seg"].argmax(dim=0))
            fields["stuff_names"] = categories.stuff_names
        if "panoptic_seg" in output:
            panoptic, infos = output["panoptic_seg"]
            fields["panoptic_seg"] = _array(panoptic)
            fields["segments"] = _segments(fields["panoptic_seg"], infos, categories)
        return Predictions.empty(size, self.class_names).replace(**fields)


@dataclass
class _Bitmaps:
    """Full-frame masks as a tensor gives them, each made only when it is looked at."""

    masks: InstanceMasks
    device: Any = "cpu"

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, i: Any) -> Any:
        import torch

        return torch.from_numpy(self.masks[[int(i)]].dense()[0]).to(self.device)

    def to(self, *, dtype: Any, device: Any) -> _Bitmaps:
        return _Bitmaps(self.masks, device)


def _to_the_log(name: str) -> None:
    """Keep what a library says of itself off the terminal; errors still show."""
    logger = logging.getLogger(name)
    logger.propagate = True
    for handler in logger.handlers:
        handler.setLevel(logging.ERROR)


def _postprocessed(instances: Any, item: dict[str, Any]) -> dict[str, Any]:
    """Scale to the frame's pixels as Detectron2 does, and paste the masks into crops.

    Meanwhile the head's probabilities have a name that ``detector_postprocess`` does not know, or
    it would paste them into full frames.
    """
    from detectron2.modeling.postprocessing import detector_postprocess

    has_masks = instances.has("pred_masks")
    if has_masks:
        instances.mask_probs = instances.pred_masks
        instances.remove("pred_masks")
    instances = detector_postprocess(instances, item["height"], item["width"])
    output = {"instances": instances}
    if has_masks:
        output["masks"] = _pasted(instances)
    return output


def _pasted(instances: Any) -> InstanceMasks:
    """Paste each mask into its box crop, as ``paste_masks_in_image`` does on the CPU.

    The same function at the same sample points gives the same float32 values, so on either device
    the pixels are those of the full-frame bitmap, and nothing is computed outside the crop.
    """
    from detectron2.layers.mask_ops import _do_paste_mask

    height, width = instances.image_size
    probs, boxes = instances.mask_probs, instances.pred_boxes.tensor
    crops: list[NDArray[np.bool_]] = []
    corners: list[tuple[int, int]] = []
    for i in range(len(boxes)):
        values, (rows, columns) = _do_paste_mask(
            probs[i : i + 1], boxes[i : i + 1], height, width, skip_empty=True
        )
        crops.append(_array(values[0] >= _MASK_THRESHOLD))
        corners.append((int(columns.start), int(rows.start)))
    return InstanceMasks.from_crops(crops, corners, (height, width))


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
