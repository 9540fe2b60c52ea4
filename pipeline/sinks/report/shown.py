"""The images that the page shows: their thumbnails and what was detected in them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.encoding import read_records
from pipeline.records import Categories
from pipeline.sinks.report.html import encoded
from pipeline.sinks.report.links import link
from pipeline.sinks.report.outlines import Outlines
from pipeline.sinks.report.sample import Key, Sample
from pipeline.system.files import asset_id_of, output_name
from pipeline.system.output_folder import OutputFolder


@dataclass(frozen=True)
class ShownImage:
    """A frame on the page.

    Attributes:
        rank: Its rank in the sample.
        position: Number of its line in ``predictions.jsonl``.
        key: Its asset and index.
        facts: Its names, size and detections, for the page.
        jpeg: Its thumbnail; ``None`` if the image cannot be read.
        url: Where the thumbnail is, relative to the page; ``None`` to embed it.
    """

    rank: int
    position: int
    key: Key
    facts: dict[str, Any]
    jpeg: bytes | None
    url: str | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes that it takes in the page."""
        return len(encoded(self.as_json())) + 1

    def moved_to(self, folder: OutputFolder, name: str) -> ShownImage:
        """Write the thumbnail to a file, and return the image with a link to it."""
        from urllib.parse import quote

        if self.jpeg is None:
            return self
        asset_id, index = self.key
        path = f"{name}/{output_name(asset_id, '.jpg', None if self.facts['still'] else index)}"
        folder.write(path, self.jpeg)
        return replace(self, jpeg=None, url=quote(path.encode(errors="surrogateescape")))

    def as_json(self) -> dict[str, Any]:
        """Return what the page's script reads."""
        return self.facts | {"src": self.url if self.jpeg is None else data_url(self.jpeg)}


def data_url(jpeg: bytes) -> str:
    """Return the URL of an image that is embedded into a page."""
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode('ascii')}"


def shown_images(
    journal: Path,
    categories: Categories,
    sample: Sample,
    thumbnails: Iterator[tuple[Key, bytes]],
) -> Iterator[ShownImage]:
    """Yield the images of a sample in the order of their lines.

    Args:
        journal: ``predictions.jsonl``.
        categories: The classes of the model.
        sample: Which frames.
        thumbnails: In about the same order; frames without one are shown without pixels.
    """
    ranks = sample.chosen()
    outlines = Outlines(journal.parent, categories)
    early: dict[Key, bytes] = {}
    for position, record in enumerate(read_records(journal)):
        if position not in ranks:
            continue
        key = asset_id_of(record), record["frame"]
        while key not in early and (found := next(thumbnails, None)) is not None:
            early[found[0]] = found[1]
        facts = image_facts(record, journal.parent, outlines)
        yield ShownImage(ranks[position], position, key, facts, early.pop(key, None))


def image_facts(record: dict[str, Any], directory: Path, outlines: Outlines) -> dict[str, Any]:
    """Return the names, size and detections of a frame, as the page's script reads them.

    Args:
        record: Its line of ``predictions.jsonl``.
        directory: The run directory.
        outlines: Makes its masks.
    """
    is_still = record["frame"] == 0 and "pts" not in record
    number = None if is_still else record["frame"]
    instances = sorted(record["instances"], key=lambda each: -(each["score"] or 0))
    return {
        "id": record["asset"],
        "still": is_still,
        "frame": record["frame"],
        "time": record["time_s"],
        "size": [record["width"], record["height"]],
        "overlay": link(directory, "overlay", asset_id_of(record), number),
        "detections": [_detection(each, outlines) for each in instances],
        "regions": outlines.regions(record),
    }


def _detection(instance: dict[str, Any], outlines: Outlines) -> list[Any]:
    """Return class, score, box, mask, track and keypoints; what is absent is 0."""
    mask = instance.get("mask")
    return [
        instance["class_id"],
        instance["score"],
        [_short(value) for value in instance["box"]],
        0 if mask is None else outlines.of_mask(mask),
        instance.get("track_id", -1),
        [
            [_short(x), _short(y), _short(score)] for x, y, score in instance.get("keypoints", ())
        ] or 0,
    ]  # fmt: skip


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
