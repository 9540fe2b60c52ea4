"""Predictions as the outputs of the Open Inference Protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding import PANOPTIC, SEM_SEG
from pipeline.protocols import FieldsRunnable, Runnable
from pipeline.records import Predictions, Result
from pipeline.sinks.label_maps import encode_maps
from runners.serve.http.kserve.tensors import Tensor
from runners.serve.uploads import Answer

Found = Sequence[tuple[Answer, Predictions]]
Data = NDArray[Any] | list[bytes]


@dataclass(frozen=True, slots=True)
class Output:
    """What an output holds.

    Attributes:
        datatype: FP32, INT64 or BYTES.
        shape: Its shape; the first -1 is the number of instances, or of images.
        field: The optional field of predictions that it is made of; ``""`` for none.
        data: Returns its elements for several images.
        is_text: Whether BYTES are UTF-8.
    """

    datatype: str
    shape: list[int]
    field: str
    data: Callable[[Found], Data]
    is_text: bool = True


def known_outputs(runnable: Runnable) -> list[str]:
    """Return the names of a model's outputs; all of them if it does not say which it has."""
    if not isinstance(runnable, FieldsRunnable):
        return list(OUTPUTS)
    return [name for name, output in OUTPUTS.items() if output.field in ("", *runnable.fields)]


def output_tensors(answers: Sequence[Answer], names: Sequence[str]) -> list[Tensor]:
    """Return the outputs with these names; an image that a stage dropped has no instances."""
    found = [(answer, _predictions(answer)) for answer in answers]
    tensors = []
    for name in names:
        output = OUTPUTS[name]
        data = output.data(found)
        shape = data.shape if isinstance(data, np.ndarray) else (len(data),)
        tensors.append(Tensor(name, output.datatype, shape, data, output.is_text))
    return tensors


def _predictions(answer: Answer) -> Predictions:
    result = answer.result
    return Predictions.empty(answer.frame.size) if result is None else result.predictions


def _column(name: str) -> Callable[[Found], Data]:
    return lambda found: np.concatenate([getattr(p, name) for _, p in found])


def _counts(found: Found) -> Data:
    return np.array([len(p) for _, p in found], np.int64)


def _class_names(found: Found) -> Data:
    return [p.class_names[i].encode() for _, p in found for i in p.classes.tolist()]


def _masks(found: Found) -> Data:
    masks = [p.masks.rle() if p.masks is not None else [None] * len(p) for _, p in found]
    return [json.dumps(rle).encode() for each in masks for rle in each]


def _keypoints(found: Found) -> Data:
    present = [p.keypoints for _, p in found if p.keypoints is not None]
    n_points = present[0].shape[1] if present else 0
    missing = np.float32(np.nan)
    columns = [
        np.full((len(p), n_points, 3), missing) if p.keypoints is None else p.keypoints
        for _, p in found
    ]
    return np.concatenate(columns)


def _label_maps(folder: str) -> Callable[[Found], Data]:
    """Return a function that returns one PNG per image, empty where there is no map."""
    return lambda found: [
        bytes(encode_maps(Result(answer.frame, p)).get(folder, b"")) for answer, p in found
    ]


def _segments(found: Found) -> Data:
    records = [json.loads(answer.line or b"{}") for answer, _ in found]
    segments = [record.get("panoptic_seg", {}).get("segments", []) for record in records]
    return [json.dumps(each).encode() for each in segments]


OUTPUTS: dict[str, Output] = {
    "boxes": Output("FP32", [-1, 4], "", _column("boxes")),
    "scores": Output("FP32", [-1], "", _column("scores")),
    "classes": Output("INT64", [-1], "", _column("classes")),
    "class_names": Output("BYTES", [-1], "", _class_names),
    "counts": Output("INT64", [-1], "", _counts),
    "masks": Output("BYTES", [-1], "masks", _masks),
    "keypoints": Output("FP32", [-1, -1, 3], "keypoints", _keypoints),
    "sem_seg": Output("BYTES", [-1], "sem_seg", _label_maps(SEM_SEG), is_text=False),
    "panoptic_seg": Output("BYTES", [-1], "panoptic_seg", _label_maps(PANOPTIC), is_text=False),
    "segments": Output("BYTES", [-1], "panoptic_seg", _segments),
}
