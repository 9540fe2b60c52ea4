"""Statistics of all results of a run, in one pass over ``predictions.jsonl``."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from pipeline.encoding import read_records
from pipeline.recorded.run import FAILURES
from pipeline.records import Categories
from pipeline.sinks.report.links import link
from pipeline.sinks.report.sample import Key, Sample
from pipeline.sinks.report.timeline import Timeline
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import asset_id_of

SCORE_BINS, SIZE_BINS, GRID = 20, 12, 12
MAX_ROWS, MAX_FAILURES = 20_000, 5_000
LAST_FRAME = 3_000  # later frames of a video would have to be decoded up to there once more


@dataclass
class Statistics:
    """What a report says about all images.

    Attributes:
        n_frames: Number of frames.
        n_images: Number of stills.
        n_empty: Number of frames without detections.
        counts: Number of frames by number of detections.
        scores: Detections by class and score, in ``SCORE_BINS`` equal steps.
        sizes: Detections by class and size: the square root of the box's area is at least
            ``2 ** i`` px.
        places: Detections by class and place of the box's center, in a grid, row by row.
        frames_with: Number of frames by class, including stuff, after the classes of things.
        rows: Of the first stills: id, number of detections, lowest score, detections by class.
        videos: The others.
        failures: The first lines of ``failures.jsonl``.
        n_failures: Number of its lines.
    """

    n_frames: int = 0
    n_images: int = 0
    n_empty: int = 0
    counts: Counter[int] = field(default_factory=Counter)
    scores: dict[int, list[int]] = field(default_factory=dict)
    sizes: dict[int, list[int]] = field(default_factory=dict)
    places: dict[int, list[int]] = field(default_factory=dict)
    frames_with: Counter[int] = field(default_factory=Counter)
    rows: list[tuple[Key, list[Any]]] = field(default_factory=list)
    videos: list[Timeline] = field(default_factory=list)
    failures: list[list[Any]] = field(default_factory=list)
    n_failures: int = 0

    def add(self, record: dict[str, Any], n_things: int) -> None:
        """Count a frame."""
        instances = record["instances"]
        self.n_frames += 1
        self.n_empty += not instances
        self.counts[len(instances)] += 1
        for each in instances:
            self._add_instance(each, record["width"], record["height"])
        stuff = {
            n_things + each["class_id"]
            for each in record.get("panoptic_seg", {}).get("segments", ())
            if not each["is_thing"]
        }
        self.frames_with.update({each["class_id"] for each in instances} | stuff)

    def _add_instance(self, instance: dict[str, Any], width: int, height: int) -> None:
        class_id, box, score = instance["class_id"], instance["box"], instance["score"]
        scores = self.scores.setdefault(class_id, [0] * SCORE_BINS)
        if score is not None:
            scores[_bin(score, SCORE_BINS)] += 1
        if None in box:
            return
        x1, y1, x2, y2 = box
        side = math.sqrt(max(x2 - x1, 0) * max(y2 - y1, 0))
        sizes = self.sizes.setdefault(class_id, [0] * SIZE_BINS)
        sizes[min(int(math.log2(max(side, 1))), SIZE_BINS - 1)] += 1
        column = _bin((x1 + x2) / 2 / width, GRID)
        row = _bin((y1 + y2) / 2 / height, GRID)
        self.places.setdefault(class_id, [0] * GRID**2)[row * GRID + column] += 1

    def as_json(self, shown: Collection[Key] = ()) -> dict[str, Any]:
        """Return the statistics for the page.

        Args:
            shown: The frames that are shown, which are not listed.
        """
        return {
            "n_frames": self.n_frames,
            "n_images": self.n_images,
            "n_empty": self.n_empty,
            "counts": sorted(self.counts.items()),
            "scores": sorted(self.scores.items()),
            "sizes": sorted(self.sizes.items()),
            "places": sorted(self.places.items()),
            "frames_with": sorted(self.frames_with.items()),
            "rows": [row for key, row in self.rows if key not in shown],
            "n_unlisted": self.n_images - len(self.rows),
            "videos": [video.as_json() for video in self.videos],
            "failures": self.failures,
            "n_failures": self.n_failures,
        }


def read_statistics(journal: Path, categories: Categories, sample: Sample) -> Statistics:
    """Read the results of a run, and offer each frame to the sample.

    Raises:
        OutputError: A line is incomplete.
    """
    statistics, n_things = Statistics(), len(categories.thing_names)
    numbered = enumerate(read_records(journal))
    for asset_id, group in groupby(numbered, key=lambda each: asset_id_of(each[1])):
        is_still, lines = _is_still(group)
        timeline = None if is_still else Timeline(asset_id, link(journal.parent, "video", asset_id))
        for position, record in lines:
            statistics.add(record, n_things)
            key = asset_id, record["frame"]
            if timeline is None or record["frame"] < LAST_FRAME:
                sample.add(key, position, record)
            if timeline is not None:
                timeline.add(record)
            elif len(statistics.rows) < MAX_ROWS:
                statistics.rows.append((key, _row(record)))
        if timeline is None:
            statistics.n_images += 1
        else:
            statistics.videos.append(timeline)
    for line in _failures(journal.parent):
        statistics.n_failures += 1
        if len(statistics.failures) < MAX_FAILURES:
            keys = ("asset", "step", "error", "message", "attempts")
            statistics.failures.append([line.get(key) for key in keys])
    return statistics


def _is_still(
    group: Iterator[tuple[int, dict[str, Any]]],
) -> tuple[bool, Iterable[tuple[int, dict[str, Any]]]]:
    """Return whether an asset is a still, and its lines."""
    first, second = next(group), next(group, None)
    is_still = second is None and first[1]["frame"] == 0 and "pts" not in first[1]
    return is_still, chain([first], [] if second is None else [second], group)


def _row(record: dict[str, Any]) -> list[Any]:
    instances = record["instances"]
    scores = [each["score"] for each in instances if each["score"] is not None]
    classes = Counter(each["class_id"] for each in instances)
    return [record["asset"], len(instances), min(scores, default=None), sorted(classes.items())]


def _failures(directory: Path) -> Iterator[dict[str, Any]]:
    try:
        with open_to_read(directory / FAILURES) as file:
            yield from map(json.loads, file)
    except FileNotFoundError:
        return


def _bin(share: float, n: int) -> int:
    return max(0, min(int(share * n), n - 1))
