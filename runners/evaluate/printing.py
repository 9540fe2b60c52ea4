"""Prints an evaluation as tables of at most 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.system.terminal import print_stdout
from runners.reporting.console import print_table

_MAX_CLASSES = 20
_MAX_NAME = 24
KINDS = ("box", "mask", "keypoints")
_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_KEYPOINT_COLUMNS = ("AP", "AP50", "AP75", "APm", "APl")


def print_evaluation(evaluation: Mapping[str, Any], path: Path) -> None:
    """Print the most important numbers, in percent.

    Args:
        evaluation: The content of ``evaluation.json``.
        path: Where it was written.
    """
    kinds = [kind for kind in KINDS if kind in evaluation]
    rows = [
        (kind, *(percent(evaluation[kind].get(name)) for name in (*_COLUMNS, _recall(kind))))
        for kind in kinds
    ]
    print_table("COCO's numbers, in percent", ("of", *_COLUMNS, "AR"), rows)
    kind = "mask" if "mask" in kinds else "box"
    classes = evaluation[kind]["classes"]
    if len(classes) > 1:
        order = sorted(classes, key=lambda name: -classes[name]["instances"])
        shown = [
            (_short(name), classes[name]["instances"], *_class_row(classes[name]))
            for name in order[:_MAX_CLASSES]
        ]
        print_table(f"Classes, by {kind}", ("class", "instances", "AP", "AP50", "AR"), shown)
        if len(order) > _MAX_CLASSES:
            print_stdout(f"{len(order) - _MAX_CLASSES} more classes are in {path.name}")
    counts = evaluation["images"]
    print_stdout(
        f"{counts['evaluated']} images matched by {evaluation['matched_by']}, "
        f"{evaluation['instances']} instances, {evaluation['detections']} detections"
    )
    print_stdout(f"evaluation in {path}", unbroken=[str(path)])


def percent(value: float | None) -> str:
    """Return a number in percent; ``-`` if there is none."""
    return "-" if value is None else f"{100 * value:.2f}"


def _recall(kind: str) -> str:
    return "AR" if kind == "keypoints" else "AR100"


def _class_row(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(percent(numbers[name]) for name in ("AP", "AP50", "AR100"))


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."
