"""The instances of a frame, from a result or from its line in ``predictions.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.encoding import floats
from pipeline.errors import ConfigError
from pipeline.masks import InstanceMasks
from pipeline.records import Categories, Predictions
from pipeline.sinks.annotations.polygons import Region, trace


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance, in numbers that JSON writes as in ``predictions.jsonl``.

    Attributes:
        class_id: Index of its class.
        class_name: Name of its class.
        box: ``x1, y1, x2, y2`` in pixels.
        score: In [0, 1].
        mask: Its mask alone, or ``None``; also ``None`` if it has no pixels.
        keypoints: ``[x, y, score]`` in pixels each, or ``None``. Those that are not finite are
            ``[None, None, None]``.
        track_id: Its track, or ``None``.
    """

    class_id: int
    class_name: str
    box: tuple[float, float, float, float]
    score: float
    mask: InstanceMasks | None
    keypoints: list[list[float | None]] | None
    track_id: int | None

    def regions(self, tolerance_px: float = 0) -> list[Region]:
        """Return the mask's outlines and holes, see ``trace``; none without a mask."""
        return trace(*self.mask.crop(0), tolerance_px) if self.mask else []


def instances_of(p: Predictions) -> Iterator[Instance]:
    """Yield the instances of a result; those whose box or score is not finite are skipped."""
    boxes, scores = floats(p.boxes), floats(p.scores)
    keypoints = None if p.keypoints is None else floats(p.keypoints)
    for i, class_id in enumerate(p.classes.tolist()):
        if None not in boxes[i] and scores[i] is not None:
            yield Instance(
                class_id,
                p.class_names[class_id],
                tuple(boxes[i]),
                scores[i],
                _with_pixels(None if p.masks is None else p.masks[[i]]),
                None if keypoints is None else _finite(keypoints[i]),
                None if p.track_ids is None else int(p.track_ids[i]),
            )


def instances_in(record: dict[str, Any]) -> Iterator[Instance]:
    """Yield the same from a line."""
    size = record["height"], record["width"]
    for instance in record["instances"]:
        if None in instance["box"] or instance["score"] is None:
            continue
        mask = instance.get("mask")
        yield Instance(
            instance["class_id"],
            instance["class_name"],
            tuple(instance["box"]),
            instance["score"],
            _with_pixels(InstanceMasks.from_rle([mask], size) if mask else None),
            _finite(instance["keypoints"]) if "keypoints" in instance else None,
            instance.get("track_id"),
        )


def check_has_instances(categories: Categories) -> None:
    """Raise ConfigError for a model that finds no instances."""
    if not categories.thing_names:
        raise ConfigError(
            "the model finds no instances, only semantic classes, which sem_seg/ and panoptic/ "
            "hold; remove this sink"
        )


def _with_pixels(mask: InstanceMasks | None) -> InstanceMasks | None:
    return mask if mask is not None and len(mask.edges[0]) else None


def _finite(keypoints: list[list[float | None]]) -> list[list[float | None]]:
    return [[None] * 3 if None in point else point for point in keypoints]
