"""Finds which images and classes of a run and a ground truth are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.errors import ConfigError, did_you_mean
from runners.evaluate.reading.results import Results, name_of
from runners.evaluate.reading.truth import Truth

_SHOWN = 5


@dataclass(frozen=True)
class Matched:
    """What is evaluated.

    Attributes:
        by: What identified the images: ``id``, ``file name`` or ``last part of the file name``.
        images: The ground truth's image id by index of the record.
        categories: The ground truth's category id by class name.
        warnings: What is left out.
    """

    by: str
    images: dict[int, Any]
    categories: dict[str, int]
    warnings: tuple[str, ...]


def match(results: Results, truth: Truth) -> Matched:
    """Match images and classes.

    Ids count only if the file names agree, or if the run took them from a COCO file: the images of
    any other run are numbered from 1, and so are those of most datasets.

    Raises:
        ConfigError: No image or no class is the same, or an image has another size.
    """
    categories, warnings = _categories(results, truth)
    by, images = _images(results, truth)
    _refuse_other_sizes(results, truth, images)
    left, unknown = len(truth.images) - len(images), len(results.records) - len(images)
    if left:
        failed = f" ({results.n_failed} inputs failed)" if results.n_failed else ""
        warnings.append(
            f"{left} of {len(truth.images)} images of the ground truth are not in the run{failed}; "
            "they are not evaluated"
        )
    if unknown:
        warnings.append(
            f"{unknown} of {len(results.records)} images of the run are not in the ground truth; "
            "they are not evaluated"
        )
    return Matched(by, images, categories, tuple(warnings))


def _categories(results: Results, truth: Truth) -> tuple[dict[str, int], list[str]]:
    known = dict.fromkeys(results.class_names)
    if truth.segments:
        known |= dict.fromkeys(results.stuff_names)
    ids = {_known_name(str(entry["name"]), known): entry["id"] for entry in truth.categories}
    both = {name: ids[name] for name in ids if name in known}
    if not both:
        raise ConfigError(
            f"ground_truth: '{truth.path}' has none of the model's classes ({listed(known)}); its "
            f"categories are {listed(ids) or 'empty'}"
        )
    warnings = []
    infos = (info for entry in truth.segments for info in entry["segments_info"])
    annotated = {entry["category_id"] for entry in (*truth.annotations, *infos)}
    missing = [name for name in ids if name not in known and ids[name] in annotated]
    if missing:
        hint = did_you_mean(missing[0], known) if len(missing) == 1 else ""
        warnings.append(
            f"the model does not know the categories {listed(missing)}; they are not evaluated"
            f"{hint if hint.startswith('; did') else ''}"
        )
    if more := [name for name in known if name not in ids]:
        warnings.append(
            f"the ground truth has no categories {listed(more)}; their detections are not evaluated"
        )
    return both, warnings


def _known_name(name: str, known: Iterable[str]) -> str:
    """Return the name that Detectron2 gives to a category of COCO's stuff, if the model has it."""
    short = name.replace("-other", "").replace("-merged", "")
    return name if name in known or short not in known else short


def _images(results: Results, truth: Truth) -> tuple[str, dict[int, Any]]:
    records = results.records
    ids = {image["id"]: image for image in truth.images}
    shared = [(r, ids[r["image_id"]]) for r in records if r["image_id"] in ids]
    agree = sum(_last(name_of(record)) == _last(image["file_name"]) for record, image in shared)
    if shared and (agree == len(shared) or (not agree and results.keeps_ids)):
        return "id", {i: r["image_id"] for i, r in enumerate(records) if r["image_id"] in ids}
    for by, name in (("file name", _spelled), ("last part of the file name", _last)):
        given = _unique((name(image["file_name"]), image.get("frame", 0)) for image in truth.images)
        found = _unique((name(name_of(record)), record["frame"]) for record in records)
        both = {found[key]: truth.images[given[key]]["id"] for key in found if key in given}
        if both:
            return by, dict(sorted(both.items()))
    theirs = truth.images[0]["file_name"] if truth.images else "none"
    ours = name_of(records[0]) if records else "none"
    raise ConfigError(
        f"ground_truth: '{truth.path}' and the run have no image in common; its images are named "
        f"'{theirs}', those of the run '{ours}'"
    )


def _unique(keys: Iterable[Hashable]) -> dict[Hashable, int]:
    """Return the index of each key that occurs once."""
    every = list(keys)
    counts = Counter(every)
    return {key: i for i, key in enumerate(every) if counts[key] == 1}


def _refuse_other_sizes(results: Results, truth: Truth, images: Mapping[int, Any]) -> None:
    sizes = {image["id"]: image for image in truth.images}
    wrong = []
    for i, image_id in images.items():
        record, image = results.records[i], sizes[image_id]
        theirs = image.get("width"), image.get("height")
        if all(theirs) and theirs != (record["width"], record["height"]):
            wrong.append((name_of(record), theirs, (record["width"], record["height"])))
    if wrong:
        name, (w, h), (width, height) = wrong[0]
        turned = "; is it rotated by its EXIF orientation? exif=false ignores that"
        raise ConfigError(
            f"ground_truth: {len(wrong)} of {len(images)} images have another size in the run; "
            f"'{name}' is {w} x {h} in '{truth.path}' and {width} x {height} in the run"
            f"{turned if (w, h) == (height, width) else ''}"
        )


def _spelled(name: str) -> str:
    """Return a file name with slashes; of a URL, the path in its query or else its path."""
    if "?" in name or "://" in name:
        url = urlsplit(name)
        name = parse_qs(url.query).get("d", [unquote(url.path)])[0]
    if "\\" in name:
        name = PureWindowsPath(name).as_posix()
    return str(PurePosixPath(name))


def _last(name: str) -> str:
    return PurePosixPath(_spelled(name)).name


def listed(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    every: Sequence[str] = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
