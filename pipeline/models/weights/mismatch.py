"""Explains in a few words why weights do not fit a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import printable

if TYPE_CHECKING:
    from torch import Tensor

_CLASSES = re.compile(r"cls_score|bbox_pred|\.predictor\.")
_NAME_LENGTH = 80
_OTHER_TOOLS = {  # weights of other tools, by a name that is typical for each
    "weights of MMDetection": re.compile(r"^(bbox_head|roi_head|rpn_head|neck)\."),
    "weights of torchvision": re.compile(r"^(backbone\.body|rpn\.head|roi_heads\.box_predictor)\."),
    "weights of a YOLO model": re.compile(r"^(model\.)*\d+\.(conv|cv1|m|bn)\."),
    "weights of a backbone only": re.compile(r"^(layer[1-4]\.0\.|conv1\.weight|fc\.|stem\.)"),
    "weights of a transformer": re.compile(r"\.(conv_encoder|embeddings|encoder)\."),
}


def describe_mismatch(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    different: Sequence[str],
    missing: Sequence[str],
    unexpected: Sequence[str],
) -> str:
    """Return what differs and what to do, in at most about 400 characters.

    Args:
        tensors: The tensors of the file.
        expected: The tensors of the model.
        different: Names whose shapes differ.
        missing: Names that the file lacks.
        unexpected: Names that the model lacks.
    """
    parts = []
    if different:
        # a layer of the classes says most about the cause
        first = min(different, key=lambda name: not _CLASSES.search(name))
        shapes = (
            f"is {shape_of(tensors[first])} in the file, {shape_of(expected[first])} in the model"
        )
        more = f", and {len(different) - 1} more differ" if len(different) > 1 else ""
        parts.append(f"{shorten(first)} {shapes}{more}")
    for names, what in ((missing, "missing"), (unexpected, "unexpected")):
        if names:
            parts.append(f"{len(names)} {what}: {join_names(names, 1)}")
    return f"{'; '.join(parts)}; {_hint(tensors, expected, different)}"


def shape_of(tensor: Tensor) -> str:
    """Return the shape of a tensor, with its dtype if that is not a float."""
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape)}{kind}"


def join_names(names: Sequence[str], n: int) -> str:
    """Return the first ``n`` names and the number of others."""
    more = len(names) - n
    return ", ".join(map(shorten, names[:n])) + (f" and {more} more" if more > 0 else "")


def shorten(name: object) -> str:
    """Return a name, cut to a length that fits into a message."""
    text = str(name)
    return printable(text[:_NAME_LENGTH]) + "..." * (len(text) > _NAME_LENGTH)


def _hint(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], different: Sequence[str]
) -> str:
    if not any(name in expected for name in tensors):
        for kind, pattern in _OTHER_TOOLS.items():
            if any(pattern.search(name) for name in tensors):
                return f"these are {kind}, not of a Detectron2 model"
        return "no name matches, so they belong to another architecture; check model.config"
    counts = next(
        (name for name in different if name.endswith("box_predictor.cls_score.weight")), ""
    )
    if counts:
        n, n_model = (len(each[counts]) - 1 for each in (tensors, expected))  # background excluded
        return f"they have {n} classes, the model has {n_model}; set model.class_names to those {n}"
    if any(_CLASSES.search(name) for name in different):
        return "if they have other classes, set model.class_names (or NUM_CLASSES in the config)"
    return "if they are for another variant, set model.config or model.variant"
