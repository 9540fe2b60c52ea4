"""Joins a run and its ground truth into what COCO's evaluation compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError
from runners.evaluate.engine import Dataset
from runners.evaluate.reading.matching import Matched
from runners.evaluate.reading.results import Results, name_of
from runners.evaluate.reading.truth import Truth

_COCO_KEYPOINTS = 17


@dataclass(frozen=True)
class Data:
    """What is compared, and what its indices mean.

    Attributes:
        dataset: Image and category ids are 1, 2, ... in the order of the ground truth's ids.
        kinds: What both have: ``box``, ``mask``, ``keypoints``.
        images: The ground truth's images, in the same order.
        records: The lines of ``predictions.jsonl``, in the same order.
        class_names: In the order of the categories.
        warnings: What could not be evaluated.
    """

    dataset: Dataset
    kinds: tuple[str, ...]
    images: list[dict[str, Any]]
    records: list[dict[str, Any]]
    class_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def primary(self) -> str:
        """The kind that thresholds are chosen by: masks if there are any, otherwise boxes."""
        return "mask" if "mask" in self.kinds else "box"

    def name_of(self, image: int) -> str:
        """Return the asset of an image."""
        return name_of(self.records[image])


def join(results: Results, truth: Truth, matched: Matched, sigmas: Sequence[float] | None) -> Data:
    """Return the data to evaluate.

    Args:
        results: The run.
        truth: The ground truth.
        matched: The images and classes that both have.
        sigmas: See ``Dataset``.

    Raises:
        ConfigError: There is not one sigma per keypoint.
    """
    images = {image["id"]: image for image in truth.images}
    order = sorted(matched.images, key=lambda i: _rank(matched.images[i]))
    numbers = {matched.images[i]: n for n, i in enumerate(order, 1)}
    names = sorted(matched.categories, key=lambda name: _rank(matched.categories[name]))
    ids = {name: n for n, name in enumerate(names, 1)}
    category_ids = {matched.categories[name]: n for name, n in ids.items()}
    annotations = [
        each
        | {
            "image_id": numbers[each["image_id"]],
            "category_id": category_ids[each["category_id"]],
        }
        for each in truth.annotations
        if each["image_id"] in numbers and each["category_id"] in category_ids
    ]
    found = {i: numbers[image_id] for i, image_id in matched.images.items()}
    detections = list(results.detections(found, ids))
    warnings: list[str] = []
    kinds = ["box"]
    if _has("segmentation", annotations, detections):
        kinds.append("mask")
        if left := sum("segmentation" not in each for each in annotations):
            warnings.append(f"{left} annotations without a mask are not part of the mask's numbers")
    n_keypoints = {len(each["keypoints"]) // 3 for each in annotations if "keypoints" in each}
    if _has("keypoints", annotations, detections):
        found_n = {len(each["keypoints"]) // 3 for each in detections if "keypoints" in each}
        if len(n_keypoints | found_n) > 1:
            raise ConfigError(
                "ground_truth: instances have different numbers of keypoints: "
                f"{sorted(n_keypoints)} in the ground truth, {sorted(found_n)} in the run"
            )
        (n,) = n_keypoints
        if sigmas is not None and len(sigmas) != n:
            raise ConfigError(f"keypoint_sigmas: expected {n} numbers, one per keypoint")
        if sigmas is None and n != _COCO_KEYPOINTS:
            warnings.append(
                f"keypoints are not evaluated: these {n} are not COCO's 17, so the precision of "
                "each must be set with runner.keypoint_sigmas"
            )
        else:
            kinds.append("keypoints")
    dataset = Dataset(
        images=[{"id": numbers[matched.images[i]], **_size(results.records[i])} for i in order],
        categories=[{"id": n, "name": name} for name, n in ids.items()],
        annotations=annotations,
        detections=detections,
        sigmas=sigmas,
    )
    return Data(
        dataset=dataset,
        kinds=tuple(kinds),
        images=[images[matched.images[i]] for i in order],
        records=[results.records[i] for i in order],
        class_names=tuple(names),
        warnings=tuple(warnings),
    )


def _has(key: str, annotations: list[dict[str, Any]], detections: list[dict[str, Any]]) -> bool:
    """Return whether both have masks or keypoints; nothing found counts as a result."""
    is_given = any(key in each for each in annotations)
    return is_given and (not detections or any(key in each for each in detections))


def _size(record: dict[str, Any]) -> dict[str, int]:
    return {"width": record["width"], "height": record["height"]}


def _rank(value: Any) -> tuple[bool, Any]:
    """Return a key that sorts ids as numbers, then texts."""
    return (True, str(value)) if not isinstance(value, int) else (False, value)
