"""Why weights do not fit a model, in a few words: the differences that tell most."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import printable

if TYPE_CHECKING:
    from torch import Tensor

_CLASSES = re.compile(r"cls_score|bbox_pred|\.predictor\.")
_NAME_LENGTH = 80
_WHOSE = {  # weights of other tools, by a name that each of them has
    "MMDetection's": re.compile(r"^(bbox_head|roi_head|rpn_head|neck)\."),
    "torchvision's": re.compile(r"^(backbone\.body|rpn\.head|roi_heads\.box_predictor)\."),
    "a YOLO model's": re.compile(r"^(model\.)*\d+\.(conv|cv1|m|bn)\."),
    "a backbone's alone": re.compile(r"^(layer[1-4]\.0\.|conv1\.weight|fc\.|stem\.)"),
    "a transformer's": re.compile(r"\.(conv_encoder|embeddings|encoder)\."),
}


def misfit(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    unlike: Sequence[str],
    missing: Sequence[str],
    unexpected: Sequence[str],
) -> str:
    """Say in at most some 400 characters what differs, and what to do.

    Args:
        tensors: Those of the file.
        expected: Those of the model.
        unlike: Names whose shapes differ.
        missing: Names that the file lacks.
        unexpected: Names that the model lacks.
    """
    parts = []
    if unlike:
        first = min(unlike, key=lambda name: not _CLASSES.search(name))  # it tells most
        forms = f"is {form(tensors[first])} in the file, {form(expected[first])} in the model"
        more = f", and {len(unlike) - 1} more differ" if len(unlike) > 1 else ""
        parts.append(f"{short(first)} {forms}{more}")
    for names, what in ((missing, "missing"), (unexpected, "unexpected")):
        if names:
            parts.append(f"{len(names)} {what}: {some(names, 1)}")
    return f"{'; '.join(parts)}; {_hint(tensors, expected, unlike)}"


def form(tensor: Tensor) -> str:
    """Return a shape, and the kind of number where it is not a float."""
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape)}{kind}"


def some(names: Sequence[str], n: int) -> str:
    """List the first ``n`` names, and count the rest."""
    more = len(names) - n
    return ", ".join(map(short, names[:n])) + (f" and {more} more" if more > 0 else "")


def short(name: object) -> str:
    """Return a name of any length for a message."""
    text = str(name)
    return printable(text[:_NAME_LENGTH]) + "..." * (len(text) > _NAME_LENGTH)


def _hint(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], unlike: Sequence[str]
) -> str:
    if not any(name in expected for name in tensors):
        for whose, pattern in _WHOSE.items():
            if any(pattern.search(name) for name in tensors):
                return f"they are {whose}, not those of a Detectron2 model"
        return "no name is known, so they belong to another architecture: see model.config"
    counts = next((name for name in unlike if name.endswith("box_predictor.cls_score.weight")), "")
    if counts:
        n, wanted = (len(each[counts]) - 1 for each in (tensors, expected))  # one is background
        return f"they know {n} classes, the model has {wanted}: set model.class_names to those {n}"
    if any(_CLASSES.search(name) for name in unlike):
        return "if they know other classes, set model.class_names (or NUM_CLASSES in the config)"
    return "are they for another variant? See model.config and model.variant"
