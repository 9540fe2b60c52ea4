"""The images on the page of a sweep: the same ones of every job, with what each job detected."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.encoding import read_records
from pipeline.errors import ConfigError, OutputError, printable
from pipeline.recorded import RecordedRun
from pipeline.recorded.run import INPUTS
from pipeline.records import Categories
from pipeline.sinks.report.html import encoded
from pipeline.sinks.report.outlines import Outlines
from pipeline.sinks.report.shown import data_url, image_facts
from pipeline.sinks.report.thumbnails import THUMBNAIL_PX, Thumbnails
from pipeline.sources.recorded import run_images
from pipeline.system.files import asset_id_of
from runners.reporting.sweep import SweepJob

MAX_IMAGES = 300
_MAX_RESULTS = 6000  # of all jobs, as they are in memory
_MIN_IMAGES = 10


class Key(NamedTuple):
    """What makes two images of different jobs the same one.

    Attributes:
        order: Its random number: the same in every job and every sweep.
        asset_id: Its asset.
        sha256: Of its content; ``None`` if it was never read.
        frame: Index of the frame.
        size: Width and height, which differ if only one job turns it by its EXIF orientation.
    """

    order: str
    asset_id: str
    sha256: str | None
    frame: int
    size: tuple[int, int]


@dataclass
class JobImages:
    """The sampled images of a job.

    Attributes:
        job: The job.
        run: Its run directory.
        categories: The classes of its model.
        found: By image: number of its line in ``predictions.jsonl``, and the line.
    """

    job: SweepJob
    run: RecordedRun
    categories: Categories
    found: dict[Key, tuple[int, dict[str, Any]]] = field(default_factory=dict)

    def sample(self, n_images: int) -> None:
        """Choose images. Jobs of the same inputs choose the same ones.

        Args:
            n_images: How many at most.

        Raises:
            OutputError: The results are damaged.
        """
        digests = {asset_id_of(line): line["sha256"] for line in self.run.lines(INPUTS)}
        kept: list[tuple[int, int, Key, dict[str, Any]]] = []
        for position, record in enumerate(read_records(self.run.path / PREDICTIONS)):
            asset_id = asset_id_of(record)
            key = _key(record, asset_id, digests.get(asset_id))
            item = (-int(key.order, 16), position, key, record)  # the largest one leaves first
            if len(kept) < n_images:
                heapq.heappush(kept, item)
            elif item > kept[0]:
                heapq.heapreplace(kept, item)
        self.found = {key: (position, record) for _, position, key, record in kept}

    def thumbnails(self, wanted: Sequence[Key]) -> Iterator[tuple[Key, bytes]]:
        """Yield the thumbnails of images that can be read."""
        frames: dict[str, list[int]] = {}
        for key in sorted(wanted, key=lambda key: key.frame):
            frames.setdefault(key.asset_id, []).append(key.frame)
        keys = {(key.asset_id, key.frame): key for key in wanted}
        for found, jpeg in Thumbnails(run_images(self.run.path), THUMBNAIL_PX).of(frames):
            yield keys[found], jpeg


def read_images(
    directory: Path, jobs: Sequence[SweepJob], n_bytes: int
) -> tuple[dict[str, Any], dict[int, str]]:
    """Read the results of a sweep.

    Args:
        directory: The sweep's directory, from which links start.
        jobs: Its jobs.
        n_bytes: How long the images may be as JSON.

    Returns:
        ``things``, ``stuff``, ``skeletons`` and ``images`` for the page; by number of the job,
        why its results cannot be read.
    """
    read: list[JobImages] = []
    problems: dict[int, str] = {}
    n_images = min(MAX_IMAGES, max(_MAX_RESULTS // max(len(jobs), 1), _MIN_IMAGES))
    for job in jobs:
        if job.classes is None:
            continue
        try:
            run = RecordedRun(job.directory)
            images = JobImages(job, run, run.categories)
            images.sample(n_images)
        except (ConfigError, OutputError) as exc:
            problems[job.job] = printable(str(exc))
        else:
            read.append(images)
    things = list(dict.fromkeys(n for each in read for n in each.categories.thing_names))
    stuff = list(dict.fromkeys(n for each in read for n in each.categories.stuff_names))
    results = [_Results(each, things, stuff, directory) for each in read]
    thumbnails = _thumbnails(read)
    images_of_page: list[tuple[tuple[int, int], dict[str, Any]]] = []
    total = 0
    for key in _ranked(read):
        image = _image([each.of(key) for each in results if key in each.images.found])
        image["src"] = data_url(thumbnails[key]) if key in thumbnails else None
        total += len(encoded(image)) + 1
        if total > n_bytes or len(images_of_page) == MAX_IMAGES:
            break
        images_of_page.append((_place(key, read), image))
    images_of_page.sort(key=lambda each: each[0])
    shown = [image for _, image in images_of_page]
    skeletons = {each.job.job: each.categories.skeleton for each in read}
    return {"things": things, "stuff": stuff, "skeletons": skeletons, "images": shown}, problems


def _key(record: dict[str, Any], asset_id: str, digest: str | None) -> Key:
    size = record["width"], record["height"]
    text = f"{asset_id}\0{digest}\0{record['frame']}\0{size}"
    order = sha256(text.encode(errors="surrogateescape")).hexdigest()
    return Key(order, asset_id, digest, record["frame"], size)


def _ranked(read: Sequence[JobImages]) -> list[Key]:
    """Return all images: first those of most jobs, then by their random numbers."""
    keys = {key for each in read for key in each.found}
    return sorted(keys, key=lambda key: (-sum(key in each.found for each in read), key.order))


def _thumbnails(read: Sequence[JobImages]) -> dict[Key, bytes]:
    """Return the thumbnails, each from the first job that can read the image."""
    thumbnails: dict[Key, bytes] = {}
    wanted = set(_ranked(read)[:MAX_IMAGES])
    for each in read:
        if missing := [key for key in each.found if key in wanted and key not in thumbnails]:
            thumbnails.update(each.thumbnails(missing))
    return thumbnails


def _place(key: Key, read: Sequence[JobImages]) -> tuple[int, int]:
    i = next(i for i, each in enumerate(read) if key in each.found)
    return i, read[i].found[key][0]


class _Results:
    """The results of a job, as the page's script reads them.

    Args:
        images: The sampled images of the job.
        things: The page's classes of instances.
        stuff: Its classes of regions, whose numbers follow in the page as in a model.
        directory: Where links start.
    """

    def __init__(
        self, images: JobImages, things: Sequence[str], stuff: Sequence[str], directory: Path
    ) -> None:
        self.images = images
        own, path = images.categories, images.run.path
        of_things = {name: i for i, name in enumerate(things)}
        of_stuff = {name: i for i, name in enumerate(stuff, len(things))}
        self._numbers = [
            *(of_things[name] for name in own.thing_names),
            *(of_stuff[name] for name in own.stuff_names),
        ]
        self._outlines = Outlines(path, own)
        self._url = relative_url(path, directory)

    def of(self, key: Key) -> tuple[dict[str, Any], list[Any]]:
        """Return what is known of an image; the job, its drawn image, detections and regions."""
        record = self.images.found[key][1]
        facts = image_facts(record, self.images.run.path, self._outlines)
        detections = [[self._numbers[each[0]], *each[1:]] for each in facts.pop("detections")]
        regions = [[self._numbers[index], rle] for index, rle in facts.pop("regions")]
        overlay = facts.pop("overlay")
        drawn = None if overlay is None else f"{self._url}/{overlay}"
        return facts, [self.images.job.job, drawn, detections, regions]


def _image(of_jobs: Sequence[tuple[dict[str, Any], list[Any]]]) -> dict[str, Any]:
    return {**of_jobs[0][0], "results": [result for _, result in of_jobs]}


def relative_url(path: Path, directory: Path) -> str:
    """Return the URL of a path, relative to a directory."""
    return quote(os.fsencode(os.path.relpath(path, directory)))
