"""The evaluation of a run on its page: ``evaluation.json``, and the images with the most errors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.encoding import read_records
from pipeline.protocols import Asset
from pipeline.recorded.run import EVALUATION
from pipeline.records import Categories
from pipeline.sinks.report.html import REPORT, read_page, write_page
from pipeline.sinks.report.sample import Key, Sample
from pipeline.sinks.report.shown import shown_images
from pipeline.sinks.report.thumbnails import THUMBNAIL_PX, Thumbnails
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import asset_id_of, asset_keys, sha256_file

_MAX_CONFUSIONS = 20
_MAX_MATRIX = 12  # classes of a confusion matrix that is shown whole


def read_evaluation(directory: Path) -> dict[str, Any] | None:
    """Return the content of ``evaluation.json``.

    ``None`` if there is none, or if it is of other results, for example of an earlier run.
    """
    with suppress(OSError, ValueError), open_to_read(directory / EVALUATION) as file:
        evaluation: dict[str, Any] = json.load(file)
        if evaluation["predictions_sha256"] == sha256_file(directory / PREDICTIONS):
            return evaluation
    return None


def worst_keys(evaluation: dict[str, Any] | None) -> list[Key]:
    """Return the images with the most errors."""
    worst = (evaluation or {}).get("worst_images", ())
    return [(each["asset"], each["frame"]) for each in worst]


def add_evaluation(
    path: Path, categories: Categories, images: Iterable[Asset], max_bytes: int
) -> None:
    """Show the evaluation on the page that a run has, which keeps its images.

    The images with the most errors are added to the page if it lacks them.

    Args:
        path: The page.
        categories: The classes of the model.
        images: The inputs of the run, with their pixels.
        max_bytes: How large the page may become.

    Raises:
        OutputError: The page cannot be written.
    """
    directory = path.parent
    journal = directory / PREDICTIONS
    data, facts = read_page(path)
    evaluation = read_evaluation(directory)
    shown = {(each["id"], each["frame"]) for each in data["images"]}
    wanted = [key for key in worst_keys(evaluation) if _page_key(*key) not in shown]
    sample, order = Sample(0, 0, wanted), {}
    for position, record in enumerate(read_records(journal)):
        key = asset_id_of(record), record["frame"]
        sample.add(key, position, record)
        order[_page_key(*key)] = position
    thumbnails = Thumbnails(images, THUMBNAIL_PX).of(sample.by_asset())
    left = max_bytes - path.stat().st_size
    for image in shown_images(journal, categories, sample, thumbnails):
        left -= image.n_bytes
        if left > 0:
            data["images"].append(image.as_json())
    data["images"].sort(key=lambda each: order.get((each["id"], each["frame"]), 0))
    stills = {each["id"] for each in data["images"] if each["still"]}
    data["rows"] = [row for row in data["rows"] if row[0] not in stills]
    facts["evaluation"] = evaluation_facts(evaluation)
    write_page(path, REPORT, facts["directory"], data, facts)


def _page_key(asset_id: str, frame: int) -> Key:
    return asset_keys(asset_id)["asset"], frame


def evaluation_facts(evaluation: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what the page shows: no large matrix, and no curve per class."""
    if evaluation is None:
        return None
    short = dict(evaluation)
    if confusion := short.pop("confusion", None):
        names, matrix = confusion["classes"], confusion["matrix"]
        pairs = [
            [n, names[i], names[k]]
            for i, row in enumerate(matrix)
            for k, n in enumerate(row)
            if n and i != k
        ]
        short["confused"] = sorted(pairs, key=lambda pair: -pair[0])[:_MAX_CONFUSIONS]
        short["confusion"] = confusion if len(names) <= _MAX_MATRIX + 1 else None
    if f1 := short.get("f1"):
        classes = {
            name: {key: value for key, value in each.items() if key != "curve"}
            for name, each in f1["classes"].items()
        }
        short["f1"] = f1 | {"classes": classes}
    short["worst_images"] = _printable(evaluation.get("worst_images", ()))
    if comparison := short.get("comparison"):
        listed = _printable(comparison["disagreements"])
        short["comparison"] = comparison | {"disagreements": listed}
    return short


def _printable(images: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return images with names as the page shows them."""
    return [each | {"asset": asset_keys(each["asset"])["asset"]} for each in images]
