"""Computes the content of ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.validation import check
from runners.evaluate.data import Data, join
from runners.evaluate.engine import Pairs, engine_name, has_hotcoco, pairs
from runners.evaluate.numbers.calibration import calibration
from runners.evaluate.numbers.compare import differences, disagreements, in_common
from runners.evaluate.numbers.mistakes import Mistakes, mistakes, worst_images
from runners.evaluate.numbers.panoptic import panoptic_numbers
from runners.evaluate.numbers.positions import positions
from runners.evaluate.numbers.scores import coco_numbers, tide
from runners.evaluate.numbers.slices import slices
from runners.evaluate.numbers.thresholds import f1_numbers, thresholds_of
from runners.evaluate.reading.matching import Matched, match
from runners.evaluate.reading.results import Results, read_results
from runners.evaluate.reading.truth import Truth

_IOU = 0.5  # of a detection that is right, except in COCO's numbers


@dataclass(frozen=True)
class Options:
    """What to compute besides COCO's numbers; see ``Evaluate``.

    Attributes:
        metric: Name of the number for a sweep.
        compare: Another run directory.
        slice_by: A column of the images.
        sigmas: Per keypoint; see ``Dataset``.
        n_bootstrap: How often to draw the images again.
        seed: Of these draws.
    """

    metric: str | None
    compare: Path | None
    slice_by: str | None
    sigmas: Sequence[float] | None
    n_bootstrap: int
    seed: int


def evaluated(results: Results, truth: Truth, options: Options) -> dict[str, Any]:
    """Return the content of ``evaluation.json``: no times or paths, and only what JSON holds.

    Raises:
        ConfigError: The run and the ground truth do not belong together, or an option does not fit
            them.
    """
    matched = match(results, truth)
    if truth.segments:
        return _panoptic(results, truth, matched, options)
    data = join(results, truth, matched, options.sigmas)
    evaluation = _facts(results, truth, matched)
    evaluation["warnings"] += [*results.limits, *data.warnings]
    evaluation["classes"] = list(data.class_names)
    evaluation["instances"] = sum(not each["iscrowd"] for each in data.dataset.annotations)
    evaluation["detections"] = len(data.dataset.detections)
    for kind in data.kinds:
        evaluation[kind] = coco_numbers(data.dataset, kind)
    at_iou = pairs(data.dataset, data.primary, _IOU)
    found, f1 = _mistakes(data, at_iou)
    evaluation["f1"] = f1
    evaluation["confusion"] = {
        "classes": [*data.class_names, None],
        "matrix": found.confusion().tolist(),
    }
    evaluation["calibration"] = calibration(at_iou, data.class_names)
    evaluation["tide"] = tide(data.dataset, data.primary)
    evaluation["positions"] = positions(data, at_iou, thresholds_of(f1))
    evaluation["worst_images"] = worst_images(data, found)
    if options.slice_by is not None:
        evaluation["slices"] = {
            "column": options.slice_by,
            "values": slices(data, options.slice_by, found),
        }
    if options.compare is not None:
        comparison = _comparison(results, truth, matched, options)
        evaluation["comparison"] = comparison
        evaluation["warnings"] += [f"the other run: {each}" for each in comparison["warnings"]]
    evaluation["metric"] = _metric(evaluation, data, options.metric)
    return evaluation


def _panoptic(results: Results, truth: Truth, matched: Matched, options: Options) -> dict[str, Any]:
    for name, value in (("compare", options.compare), ("slice_by", options.slice_by)):
        if value is not None:
            raise ConfigError(f"{name}: not available with a panoptic ground truth; remove it")
    evaluation = _facts(results, truth, matched)
    found = panoptic_numbers(results, truth, matched)
    known = {f"panoptic.{name}": found[name] for name in ("PQ", "SQ", "RQ")}
    return {
        **evaluation,
        "panoptic": found,
        "metric": _chosen(known, options.metric or "panoptic.PQ"),
    }


def _mistakes(data: Data, at_iou: Pairs | None = None) -> tuple[Mistakes, dict[str, Any]]:
    """Return the mistakes at the best thresholds, and the numbers that these are chosen by."""
    at_iou = at_iou or pairs(data.dataset, data.primary, _IOU)
    numbers = f1_numbers(at_iou, data.class_names)
    found = mistakes(data, thresholds_of(numbers), _IOU)
    return found, {"of": data.primary, "iou": _IOU, **numbers}


def _comparison(
    results: Results, truth: Truth, matched: Matched, options: Options
) -> dict[str, Any]:
    assert options.compare is not None
    if not has_hotcoco():
        raise ConfigError("compare: hotcoco is not installed. Run: pip install 'd2run[evaluate]'")
    other = read_results(options.compare, "runner.compare")
    ours, theirs = in_common(matched, match(other, truth))
    first = join(results, truth, ours, options.sigmas)
    second = join(other, truth, theirs, options.sigmas)
    return {
        "predictions_sha256": other.sha256,
        "images": len(first.images),
        "classes": list(first.class_names),
        "warnings": [*other.warnings, *other.limits],
        "draws": options.n_bootstrap,
        **differences(first, second, options.n_bootstrap, options.seed),
        "disagreements": disagreements(first, _mistakes(first)[0], _mistakes(second)[0]),
    }


def _metric(evaluation: Mapping[str, Any], data: Data, given: str | None) -> dict[str, Any]:
    known = {
        f"{kind}.{name}": value
        for kind in data.kinds
        for name, value in evaluation[kind].items()
        if name != "classes"
    }
    known["f1"] = evaluation["f1"]["together"]["f1"]
    known["f1.unfiltered"] = evaluation["f1"]["one"]["unfiltered"]["f1"]  # of the results as is
    return _chosen(known, given or f"{data.primary}.AP")


def _chosen(known: Mapping[str, Any], name: str) -> dict[str, Any]:
    check("metric", name, name in known, f"one of {', '.join(known)}")
    return {"name": name, "value": known[name]}


def _facts(results: Results, truth: Truth, matched: Matched) -> dict[str, Any]:
    n = len(matched.images)
    return {
        "engine": engine_name(),
        "predictions_sha256": results.sha256,
        "ground_truth": {"name": truth.path.name, "sha256": truth.sha256},
        "matched_by": matched.by,
        "images": {
            "evaluated": n,
            "only_in_ground_truth": len(truth.images) - n,
            "only_in_run": len(results.records) - n,
        },
        "warnings": [*results.warnings, *matched.warnings],
    }
