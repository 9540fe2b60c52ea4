"""The formats of answers: lines of ``predictions.jsonl``, a COCO dataset, Roboflow's JSON."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding import PANOPTIC, SEM_SEG, encode, floats, renumbered
from pipeline.errors import AssetError
from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Predictions, Result
from pipeline.sinks.coco import write_coco
from pipeline.sinks.label_maps import encode_maps
from runners.serve.errors import RequestError
from runners.serve.uploads import Answer

JSON, LINES = "application/json", "application/x-ndjson"
Given = Sequence[Answer | AssetError]


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a response."""

    body: bytes
    media_type: str = JSON


def jsonl(given: Given, categories: Categories) -> Content:
    """Return one line of ``predictions.jsonl`` per image, in order.

    Image ids count from 1. Label maps, which are files in a run directory, are data URIs. The line
    of an image that a stage dropped has no instances and ``"dropped": true``. The line of an image
    that failed has its ``asset`` and ``error``.
    """
    lines = [_failure(one) if isinstance(one, AssetError) else _line(one) for one in given]
    numbered = [
        line if isinstance(one, AssetError) else next(renumbered([line], i))
        for i, (one, line) in enumerate(zip(given, lines, strict=True), 1)
    ]
    return Content(b"".join(numbered), JSON if len(lines) == 1 else LINES)


def coco(given: Given, categories: Categories) -> Content:
    """Return the ``coco.json`` that ``sink=coco`` would write for these images.

    Raises:
        RequestError: The model has no instances.
        AssetError: An image failed.
    """
    _require_instances("coco", categories)
    lines = renumbered((_line(answer) for answer in _complete(given)), 1)
    records = [json.loads(line) for line in lines]
    dataset = BytesIO()
    write_coco(lambda: records, categories, dataset, BytesIO())
    return Content(dataset.getvalue())


def roboflow(given: Given, categories: Categories) -> Content:
    """Return the JSON of Roboflow's inference server; a list of them for several images.

    Boxes are given by their centers. ``points`` is the outline of the mask's largest part, in pixel
    indices as OpenCV finds it. Instances whose box or score is not finite are skipped.

    Raises:
        RequestError: The model has no instances.
        AssetError: An image failed.
    """
    _require_instances("roboflow", categories)
    found = [_roboflow_image(answer, categories) for answer in _complete(given)]
    return Content(json.dumps(found[0] if len(found) == 1 else found).encode())


FORMATS: dict[str, Callable[[Given, Categories], Content]] = {
    "jsonl": jsonl,
    "coco": coco,
    "roboflow": roboflow,
}


def _complete(given: Given) -> list[Answer]:
    """Return the answers; only lines can carry errors, so raise the first one."""
    answers: list[Answer] = []
    for one in given:
        if isinstance(one, AssetError):
            raise one
        answers.append(one)
    return answers


def _require_instances(name: str, categories: Categories) -> None:
    if not categories.thing_names:
        raise RequestError(
            422,
            f"format={name} holds instances, which this model does not return; use format=jsonl "
            "for its label maps",
        )


def _failure(error: AssetError) -> bytes:
    record = {"asset": error.asset_id, "error": str(error), "step": error.step}
    return json.dumps(record).encode() + b"\n"


def _line(answer: Answer) -> bytes:
    """Return an image's line, with image id 0."""
    if answer.result is None:
        predictions = Predictions.empty(answer.frame.size)
        return _changed(encode(Result(answer.frame, predictions)), {"dropped": True})
    maps = encode_maps(answer.result)
    if not maps:
        return answer.line
    uris = {name: f"data:image/png;base64,{b64encode(png).decode()}" for name, png in maps.items()}
    changes: dict[str, Any] = {}
    if SEM_SEG in uris:
        changes["sem_seg"] = uris[SEM_SEG]
    if PANOPTIC in uris:
        segments = json.loads(answer.line)["panoptic_seg"]["segments"]
        changes["panoptic_seg"] = {"file": uris[PANOPTIC], "segments": segments}
    return _changed(answer.line, changes)


def _changed(line: bytes, changes: dict[str, Any]) -> bytes:
    text = json.dumps(json.loads(line) | changes, ensure_ascii=False)
    return f"{text}\n".encode(errors="backslashreplace")


def _roboflow_image(answer: Answer, categories: Categories) -> dict[str, Any]:
    height, width = answer.frame.size
    result = answer.result
    predictions = Predictions.empty((height, width)) if result is None else result.predictions
    return {
        "inference_id": str(uuid4()),
        "time": sum(s for step, s in answer.outcome.timings.items() if step != "waiting"),
        "image": {"width": width, "height": height},
        "predictions": _roboflow_instances(predictions, categories),
    }


def _roboflow_instances(p: Predictions, categories: Categories) -> list[dict[str, Any]]:
    finite = np.isfinite(p.boxes).all(axis=1) & np.isfinite(p.scores)
    p = p[np.flatnonzero(finite)]
    corners, opposite = p.boxes[:, :2], p.boxes[:, 2:]
    boxes = np.hstack([(corners + opposite) / 2, opposite - corners])
    instances = []
    for i, (box, score, class_id) in enumerate(
        zip(floats(boxes), floats(p.scores), p.classes.tolist(), strict=True)
    ):
        instance = dict(zip(("x", "y", "width", "height"), box, strict=True)) | {
            "confidence": score,
            "class": p.class_names[class_id],
            "class_id": class_id,
            "detection_id": str(uuid4()),
        }
        if p.masks is not None:
            instance["points"] = [{"x": x, "y": y} for x, y in _outline(p.masks, i)]
        if p.keypoints is not None:
            instance["keypoints"] = _roboflow_keypoints(p.keypoints[i], categories)
        instances.append(instance)
    return instances


def _roboflow_keypoints(
    points: NDArray[np.float32], categories: Categories
) -> list[dict[str, Any]]:
    names = categories.keypoint_names or tuple(str(i) for i in range(len(points)))
    return [
        {"x": x, "y": y, "confidence": score, "class_id": i, "class": name}
        for i, (name, (x, y, score)) in enumerate(zip(names, floats(points), strict=True))
    ]


def _outline(masks: InstanceMasks, i: int) -> list[list[int]]:
    """Return the outline of a mask's largest part: three points or more; none if it is empty."""
    import cv2

    crop, corner = masks.crop(i)
    if not crop.size:
        return []
    bitmap = np.ascontiguousarray(crop, np.uint8)
    parts, _ = cv2.findContours(bitmap, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = max(parts, key=lambda part: (cv2.contourArea(part), len(part)))
    points: list[list[int]] = (largest.reshape(-1, 2) + np.array(corner)).tolist()
    return points + points[-1:] * (3 - len(points))  # a line or a point is a polygon too
