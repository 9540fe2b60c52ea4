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
from pipeline.sinks.coco_format import coco_image, dump_list
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
                lambda: read_records(journal, self.min_score),
                categories,
                dataset,
                results,
                polygons=self.polygons,
            )
        if any("panoptic_seg" in record for record in read_records(journal)):
            write_panoptic(self.directory / "panoptic.json", journal, categories)


def write_coco(
    read: Callable[[], Iterable[dict[str, Any]]],
    categories: Categories,
    dataset: BinaryIO,
    results: BinaryIO | None = None,
    *,
    polygons: bool = False,
) -> None:
    """Write one or both files; see ``CocoJson``.

    Args:
        read: Returns the records of ``predictions.jsonl``; called twice.
        categories: The classes of the records.
        dataset: Receives ``coco.json``.
        results: Receives ``coco_results.json``; ``None`` to omit it.
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
    results: BinaryIO | None,
) -> Iterator[dict[str, Any]]:
    """Yield the annotations, and write the same instances to ``results``."""
    write: Callable[[bytes], Any] = results.write if results else _discard
    number = 0
    write(b"[")
    for record in records:
        for instance in record["instances"]:
            if None in instance["box"] or instance["score"] is None:
                continue
            number += 1
            category_id = categories.thing_ids[instance["class_id"]]
            result = coco_result(instance, record["image_id"], category_id)
            write(b"\n" if number == 1 else b",\n")
            write(json.dumps(result).encode("ascii"))
            yield _annotation(number, instance, result)
    write(b"]\n")


def _discard(_: bytes) -> None:
    """Write nothing."""


def coco_result(instance: dict[str, Any], image_id: int, category_id: int) -> dict[str, Any]:
    """Return an instance of ``predictions.jsonl`` as an entry of ``coco_results.json``.

    Args:
        instance: Its box and score are finite.
        image_id: COCO's id of the image.
        category_id: COCO's id of the class.
    """
    x1, y1, x2, y2 = (np.float32(value) for value in instance["box"])
    result: dict[str, Any] = {
        "image_id": image_id,
        "category_id": category_id,
        # in float32, as Detectron2 converts boxes
        "bbox": [_short(value) for value in (x1, y1, x2 - x1, y2 - y1)],
        "score": instance["score"],
    }
    if "mask" in instance:
        result["segmentation"] = instance["mask"]
    if "keypoints" in instance:
        result["keypoints"] = _keypoints(instance["keypoints"])
    return result


def _annotation(number: int, instance: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of ``coco.json`` for an entry of ``coco_results.json``."""
    w, h = (np.float32(value) for value in result["bbox"][2:])
    annotation: dict[str, Any] = {
        "id": number,
        "image_id": result["image_id"],
        "category_id": result["category_id"],
        "bbox": result["bbox"],
        "area": max(_short(w * h), 0.0),
        "segmentation": [],
        "iscrowd": 0,
        "score": result["score"],
    }
    if "segmentation" in result:
        mask = result["segmentation"]
        annotation |= {"area": int(coco_mask.area(mask)), "segmentation": mask}
    if "keypoints" in result:
        points = list(result["keypoints"])
        found = [None not in point for point in instance["keypoints"]]
        points[2::3] = [2 if each else 0 for each in found]
        annotation |= {"keypoints": points, "num_keypoints": sum(found)}
    if "track_id" in instance:
        annotation["track_id"] = instance["track_id"]
    return annotation


def _with_polygons(annotation: dict[str, Any]) -> dict[str, Any]:
    rle = annotation["segmentation"]
    if not rle:
        return annotation
    masks = InstanceMasks.from_rle([rle], tuple(rle["size"]))
    regions = trace(*masks.crop(0))
    if not regions or any(region.holes for region in regions):
        return annotation
    return annotation | {"segmentation": [region.outline.ravel().tolist() for region in regions]}


def _keypoints(points: list[list[float | None]]) -> list[float]:
    half = np.float32(0.5)
    scored: list[float] = []
    for x, y, score in points:
        if x is None or y is None or score is None:
            scored += [0, 0, 0]
        else:
            scored += [_short(np.float32(x) - half), _short(np.float32(y) - half), score]
    return scored


def _categories(categories: Categories) -> Iterator[dict[str, Any]]:
    for category_id, name in zip(categories.thing_ids, categories.thing_names, strict=True):
        category: dict[str, Any] = {"id": category_id, "name": name}
        if categories.keypoint_names:
            category["keypoints"] = list(categories.keypoint_names)
            category["skeleton"] = [[a + 1, b + 1] for a, b in categories.skeleton]
        yield category


def _short(value: np.float32) -> float:
    return float(str(value))
