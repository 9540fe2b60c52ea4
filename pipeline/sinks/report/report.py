"""The aggregate that writes ``report.html``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from pipeline.protocols import Asset
from pipeline.records import Categories
from pipeline.sinks.report.evaluation import (
    add_evaluation,
    evaluation_facts,
    read_evaluation,
    worst_keys,
)
from pipeline.sinks.report.facts import run_facts
from pipeline.sinks.report.html import REPORT, encoded, write_page
from pipeline.sinks.report.sample import Sample
from pipeline.sinks.report.shown import ShownImage, shown_images
from pipeline.sinks.report.statistics import Statistics, read_statistics
from pipeline.sinks.report.thumbnails import THUMBNAIL_PX, Thumbnails
from pipeline.system.output_folder import OutputFolder
from pipeline.validation import check_flag, check_whole

NAME, FOLDER = "report.html", "report"
MAX_BYTES = 25_000_000
_RESERVE = 1_000_000  # for the style, the script and the facts of the run


@dataclass
class HtmlReport:
    """Writes ``report.html``: one file that shows images, detections, statistics and failures.

    The page makes no network request. Of runs with many images, a sample is shown, and the others
    are listed. The sample is drawn by the class and the score of each image's least certain
    detection; equal results give the same sample.

    The images are read from where the run found them. An image that has changed or is gone is
    shown without pixels.

    Attributes:
        directory: The run directory.
        embed: Whether to write the thumbnails into the page, of at most 25 MB. Otherwise, those of
            all images are files in ``report/``, and the page grows with the number of detections.
        max_images: With ``embed``, how many images to show at most.
        thumbnail_px: Longer side of the thumbnails.
        seed: Seed of the sample.
        root: Directory of the images, if they were moved.

    Raises:
        ConfigError: An option has an invalid value.
    """

    directory: str | Path
    embed: bool = True
    max_images: int = 300
    thumbnail_px: int = THUMBNAIL_PX
    seed: int = 0
    root: str | None = None
    is_aggregate: Literal[True] = field(default=True, init=False)
    reads_record: Literal[True] = field(default=True, init=False)
    outputs: tuple[str, ...] = field(default=(NAME, f"{FOLDER}/"), init=False)
    needs_pixels: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_flag("embed", self.embed)
        check_whole("max_images", self.max_images, 0)
        check_whole("thumbnail_px", self.thumbnail_px, 16, 4096)
        check_whole("seed", self.seed)

    def build(self, journal: Path, categories: Categories, images: Iterable[Asset] = ()) -> None:
        """Read the run, and replace the page atomically.

        Args:
            journal: ``predictions.jsonl``.
            categories: The classes of the model.
            images: The inputs of the run, with their pixels, in its order.

        Raises:
            OutputError: A line of ``predictions.jsonl`` is incomplete, or the page cannot be
                written.
        """
        directory = Path(self.directory)
        evaluation = read_evaluation(directory)
        worst = worst_keys(evaluation)
        sample = Sample(self.max_images if self.embed else None, self.seed, worst)
        statistics = read_statistics(journal, categories, sample)
        thumbnails = Thumbnails(images, self.thumbnail_px)
        folder = OutputFolder(directory)
        folder.remove(FOLDER)
        shown = shown_images(journal, categories, sample, thumbnails.of(sample.by_asset()))
        if self.embed:
            shown = _limited(shown, MAX_BYTES - _RESERVE - len(encoded(statistics.as_json())))
        else:
            shown = (image.moved_to(folder, FOLDER) for image in shown)
        data = _data(statistics, list(shown), categories)
        folder.sync()
        # not before all images were read
        facts = run_facts(directory) | {"images_note": thumbnails.problem}
        facts["evaluation"] = evaluation_facts(evaluation)
        write_page(directory / NAME, REPORT, facts["directory"], data, facts)


def show_evaluation(directory: Path, categories: Categories, images: Iterable[Asset]) -> None:
    """Show ``evaluation.json`` on the page of a run, if it has one.

    Args:
        directory: The run directory.
        categories: The classes of the model.
        images: The inputs of the run, with their pixels, in its order.

    Raises:
        OutputError: The page cannot be read or written.
    """
    add_evaluation(directory / NAME, categories, images, MAX_BYTES)


def _limited(images: Iterable[ShownImage], n_bytes: int) -> Iterator[ShownImage]:
    """Yield images in the order of the sample while they fit into a page."""
    best = sorted(images, key=lambda each: each.rank)
    totals = accumulate(each.n_bytes for each in best)
    kept = [each for each, total in zip(best, totals, strict=True) if total <= n_bytes]
    yield from sorted(kept, key=lambda each: each.position)


def _data(
    statistics: Statistics, images: list[ShownImage], categories: Categories
) -> dict[str, Any]:
    """Return the part of the page that depends on the results and the images alone."""
    return {
        "things": list(categories.thing_names),
        "stuff": list(categories.stuff_names),
        "skeleton": [list(pair) for pair in categories.skeleton],
        **statistics.as_json({image.key for image in images}),
        "images": [image.as_json() for image in images],
    }
