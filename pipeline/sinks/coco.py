"""An aggregate that writes COCO files, derived from ``predictions.jsonl`` line by line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.encoding import read_records
from pipeline.masks import InstanceMasks
from pipeline.records import Categories
from pipeline.sinks.annotations.polygons import trace
from pipeline.sinks.coco_format import at_least, coco_image, dump_list
from pipeline.sinks.coco_panoptic import write_panoptic
from pipeline.system.files import replaced
from pipeline.validation import check_flag, check_number


class CocoJson:
    """Writes ``coco.json``, ``coco_results.json`` and, for panoptic models, ``panoptic.json``.

    ``coco.json`` is a complete dataset (images, annotations with scores, categories);
    ``coco_results.json`` is the plain list that pycocotools' ``loadRes`` reads. Category ids are
    those of the model's dataset; boxes are x, y, width, height; masks are compressed RLE. Instances
    whose box or score is not finite are skipped, because no COCO tool reads null.

    Keypoints are shifted by -0.5 px in both files, as in Detectron2's evaluator
    (``instances_to_coco_json``): COCO's keypoints are pixel indices, Detectron2's are continuous
    coordinates in which the center of the first pixel is 0.5. In ``coco.json``, the third number is
    COCO's visibility (2, or 0 for a point that is not finite). In ``coco_results.json``, it is the
    keypoint's score, which ``COCOeval`` ignores.

    Polygons follow the edges of the pixels, so pycocotools reads back the same masks. COCO's
    polygons cannot have holes: a mask with a hole stays RLE, as does one without pixels.
    ``coco_results.json`` always has RLE, because ``loadRes`` reads no polygons.

    The lines are streamed twice, so memory does not grow with their number. Equal lines give
    byte-identical files.

    Args:
        directory: The run directory, where the files are written.
        min_score: Write only instances with at least this score, 0 to 1, to the first two files.
        polygons: In ``coco.json``, write masks without holes as polygons.

    Raises:
        ConfigError: An option has an invalid value.
    """

    is_aggregate: Literal[True] = True
    outputs = "coco.json", "coco_results.json", "panoptic.json"
    needs_pixels = False

    def __init__(
        self, directory: str | Path, min_score: float = 0.0, polygons: bool = False
    ) -> None:
        check_number("min_score", min_score, 0, 1)
        check_flag("polygons", polygons)
        self.directory = Path(directory)
        self.min_score = min_score
        self.polygons = polygons

    def build(self, journal: Path, categories: Categories) -> None:
        """Read ``journal`` and replace the files, each atomically.

        Raises:
            OutputError: A line is incomplete.
        """
        with (
            replaced(self.directory / "coco.json") as dataset,
            replaced(self.directory / "coco_results.json") as results,
        ):
            write_coco(
                lambda: self._records(journal),
                categories,
                dataset,
                results,
                polygons=self.polygons,
            )
        if any("panoptic_seg" in record for record in read_records(journal)):
            write_panoptic(self.directory / "panoptic.json", journal, categories)

    def _records(self, journal: Path) -> Iterator[dict[str, Any]]:
        return (at_least(record, self.min_score) for record in read_records(journal))


def write_coco(
    read: Callable[[], Iterable[dict[str, Any]]],
    categories: Categories,
    dataset: BinaryIO,
    results: BinaryIO,
    *,
    polygons: bool = False,
) -> None:
    """Write both files; see ``CocoJson``.

    Args:
        read: Returns the records of ``predictions.jsonl``; called twice.
        categories: The classes of the records.
        dataset: Receives ``coco.json``.
        results: Receives ``coco_results.json``.
        polygons: The option.
    """
    dataset.write(b'{"info": {"description": "Predictions of d2run"}, "licenses": [],\n')
    dataset.write(b'"images": ')
    dump_list(dataset, (coco_image(record) for record in read()))
    dataset.write(b',\n"annotations": ')
    kept = _annotations(read(), categories, results)
    dump_list(dataset, (_with_polygons(each) for each in kept) if polygons else kept)
    dataset.write(b',\n"categories": ')
    dump_list(dataset, _categories(categories))
    dataset.write(b"}\n")


def _annotations(
    records: Iterable[dict[str, Any]],
    categories: Categories,
    results: BinaryIO,
) -> Iterator[dict[str, Any]]:
    """Yield the annotations, and write the same instances to ``results``."""
    number = 0
    results.write(b"[")
    for record in records:
        for instance in record["instances"]:
            if None in instance["box"] or instance["score"] is None:
                continue
            number += 1
            annotation, result = _instance(instance, record["image_id"], categories)
            results.write(b"\n" if number == 1 else b",\n")
            results.write(json.dumps(result).encode("ascii"))
            yield {"id": number} | annotation
    results.write(b"]\n")


def _instance(
    instance: dict[str, Any], image_id: int, categories: Categories
) -> tuple[dict[str, Any], dict[str, Any]]:
    x1, y1, x2, y2 = (np.float32(value) for value in instance["box"])
    w, h = x2 - x1, y2 - y1  # in float32, as Detectron2 converts boxes
    annotation: dict[str, Any] = {
        "image_id": image_id,
        "category_id": categories.thing_ids[instance["class_id"]],
        "bbox": [_short(value) for value in (x1, y1, w, h)],
    }
    result = annotation | {"score": instance["score"]}
    annotation |= {
        "area": max(_short(w * h), 0.0),
        "segmentation": [],
        "iscrowd": 0,
        "score": instance["score"],
    }
    if "mask" in instance:
        mask = instance["mask"]
        annotation |= {"area": int(coco_mask.area(mask)), "segmentation": mask}
        result["segmentation"] = mask
    if "keypoints" in instance:
        annotation["keypoints"], result["keypoints"] = _keypoints(instance["keypoints"])
        annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])
    if "track_id" in instance:
        annotation["track_id"] = instance["track_id"]
    return annotation, result


def _with_polygons(annotation: dict[str, Any]) -> dict[str, Any]:
    rle = annotation["segmentation"]
    if not rle:
        return annotation
    masks = InstanceMasks.from_rle([rle], tuple(rle["size"]))
    regions = trace(*masks.crop(0))
    if not regions or any(region.holes for region in regions):
        return annotation
    return annotation | {"segmentation": [region.outline.ravel().tolist() for region in regions]}


def _keypoints(points: list[list[float | None]]) -> tuple[list[float], list[float]]:
    labelled: list[float] = []
    scored: list[float] = []
    half = np.float32(0.5)
    for x, y, score in points:
        if x is None or y is None or score is None:
            labelled += [0, 0, 0]
            scored += [0, 0, 0]
            continue
        xy = [_short(np.float32(x) - half), _short(np.float32(y) - half)]
        labelled += [*xy, 2]
        scored += [*xy, score]
    return labelled, scored


def _categories(categories: Categories) -> Iterator[dict[str, Any]]:
    for category_id, name in zip(categories.thing_ids, categories.thing_names, strict=True):
        category: dict[str, Any] = {"id": category_id, "name": name}
        if categories.keypoint_names:
            category["keypoints"] = list(categories.keypoint_names)
            category["skeleton"] = [[a + 1, b + 1] for a, b in categories.skeleton]
        yield category


def _short(value: np.float32) -> float:
    return float(str(value))
