"""Panoptic quality (PQ): how well segments cover all pixels, for panoptic models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from runners.evaluate.engine import has_hotcoco
from runners.evaluate.reading.matching import Matched, listed
from runners.evaluate.reading.results import Results
from runners.evaluate.reading.truth import Truth

_GROUPS = {"All": "", "Things": "things", "Stuff": "stuff"}
_NUMBERS = {"pq": "PQ", "sq": "SQ", "rq": "RQ"}


def panoptic_numbers(results: Results, truth: Truth, matched: Matched) -> dict[str, Any]:
    """Return PQ, SQ and RQ: of all classes, of things, of stuff, and per class.

    Raises:
        ConfigError: hotcoco is not installed, the run has no ``panoptic.json``, or the ground
            truth's label maps are missing.
    """
    if not has_hotcoco():
        raise ConfigError("panoptic quality needs hotcoco. Run: pip install 'd2run[evaluate]'")
    maps = truth.path.with_suffix("")
    if not maps.is_dir():
        raise ConfigError(f"ground_truth: no directory '{maps}' with the label maps")
    path = results.directory / "panoptic.json"
    if not path.exists():
        raise ConfigError(
            f"'{results.directory}' has no panoptic.json, which a panoptic ground truth needs; run "
            "a panoptic model with sink=coco"
        )
    _refuse_unknown(truth, matched)
    judge = import_module("hotcoco.panoptic").PanopticEval(
        _truth(truth, matched),
        _found(path, results, matched),
        gt_folder=str(maps),
        pred_folder=str(results.directory / "panoptic"),
    )
    judge.evaluate()
    return _numbers(judge.results(), matched)


def _refuse_unknown(truth: Truth, matched: Matched) -> None:
    """Refuse classes that the model does not know: their pixels belong to no other class."""
    known = set(matched.categories.values())
    given = {info["category_id"] for each in truth.segments for info in each["segments_info"]}
    names = [str(each["name"]) for each in truth.categories if each["id"] in given - known]
    if names:
        raise ConfigError(
            f"ground_truth: the model does not know the categories {listed(names)} of "
            f"'{truth.path}', without which panoptic quality cannot be computed"
        )


def _truth(truth: Truth, matched: Matched) -> dict[str, Any]:
    images = set(matched.images.values())
    return {
        "images": [image for image in truth.images if image["id"] in images],
        "annotations": [each for each in truth.segments if each["image_id"] in images],
        "categories": truth.categories,
    }


def _found(path: Path, results: Results, matched: Matched) -> dict[str, Any]:
    """Return the run's panoptic file with the ids of the ground truth."""
    data = json.loads(path.read_bytes())
    records = {record["image_id"]: i for i, record in enumerate(results.records)}
    images = {image_id: matched.images[i] for image_id, i in records.items() if i in matched.images}
    names = {each["id"]: each["name"] for each in data["categories"]}
    annotations = []
    for each in data["annotations"]:
        if each["image_id"] not in images:
            continue
        infos = [dict(info) for info in each["segments_info"]]
        for info in infos:
            name = names[info["category_id"]]
            if name not in matched.categories:
                raise ConfigError(f"ground_truth: it has no category '{name}', which the run found")
            info["category_id"] = matched.categories[name]
        annotations.append(each | {"image_id": images[each["image_id"]], "segments_info": infos})
    return {"annotations": annotations}


def _numbers(found: Mapping[str, Any], matched: Matched) -> dict[str, Any]:
    groups = {name: _row(found[group], found[group]["n"]) for group, name in _GROUPS.items()}
    names = {category_id: name for name, category_id in matched.categories.items()}
    classes = {
        names[int(category_id)]: _row(row, row["tp"] + row["fp"] + row["fn"])
        for category_id, row in sorted(found["per_class"].items())
        if int(category_id) in names
    }
    whole = groups.pop("")
    return {**whole, **groups, "classes": classes}


def _row(numbers: Mapping[str, Any], n: int) -> dict[str, float | None]:
    """Return the numbers; ``None`` if there is nothing to measure."""
    return {name: float(numbers[key]) if n else None for key, name in _NUMBERS.items()}
