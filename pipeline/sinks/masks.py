"""Instance masks as images: instances, classes, and COCO's panoptic format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding import map_name, read_records
from pipeline.errors import OutputError, SinkError
from pipeline.records import Categories, Predictions, Result
from pipeline.sinks.coco_format import coco_image
from pipeline.sinks.coco_panoptic import dump_panoptic, segments_in
from pipeline.sinks.frame_files import FrameFiles
from pipeline.sinks.png import encode_png, panoptic_colors
from pipeline.system.descriptors import status_of
from pipeline.system.files import asset_id_of
from pipeline.validation import check, check_number

Kind = Literal["instance", "semantic", "panoptic"]
_KINDS: Sequence[Kind] = ("instance", "semantic", "panoptic")
_MOST = 0xFFFF  # what 16 bits hold


class Masks(FrameFiles):
    """Writes ``<directory>/<kind>/<asset id>.png``; of a video ``<asset id>/<frame>.png``.

    Where masks overlap, the instance with the higher score is on top; of two equal scores, the
    first. Pixels without an instance are 0. Each file is written atomically as its frame arrives.

    - ``instance``: 16 bits; the value is the instance's position in ``predictions.jsonl`` plus 1.
    - ``semantic``: the value is the class id plus 1; 8 bits, or 16 for more than 255 classes.
    - ``panoptic``: COCO's colors; the segment id, R + 256 G + 65536 B, is as in ``instance``. At
      the end of the run, ``<directory>/panoptic.json`` is built.

    It is a sink and an aggregate: the aggregate is the JSON file.

    Args:
        directory: Directory of the files, in the run directory.
        kind: One or more of the kinds.
        min_score: Write only instances with at least this score, 0 to 1.

    Raises:
        ConfigError: An option has an invalid value.
    """

    is_aggregate: Literal[True] = True
    suffix = ".png"
    needs_pixels = False

    def __init__(
        self,
        directory: str | Path,
        kind: str | Sequence[str] = ("instance",),
        min_score: float = 0.0,
    ) -> None:
        kinds = [kind] if isinstance(kind, str) else list(kind)
        valid = bool(kinds) and set(kinds) <= set(_KINDS)
        check("kind", kind, valid, f"one or more of {', '.join(_KINDS)}")
        check_number("min_score", min_score, 0, 1)
        self.directory = Path(directory)
        self.kinds = [each for each in _KINDS if each in kinds]
        # not ``min_score``, by which the engine would filter: positions would change
        self._lowest = np.float32(min_score)
        name = self.directory.name
        super().__init__(self.directory.parent, *(f"{name}/{each}" for each in self.kinds))
        if "panoptic" in self.kinds:
            self.outputs += (f"{name}/panoptic.json",)

    def contents(self, result: Result) -> dict[str, memoryview]:
        """Return a frame's files by their directory.

        Raises:
            SinkError: The instances have no masks, or are more than a PNG can number.
        """
        found, asset_id = result.predictions, result.frame.asset_id
        try:
            positions = _painted(found, self._lowest)
            pngs = [encode_png(_pixels(kind, positions, found)) for kind in self.kinds]
        except ValueError as exc:
            raise SinkError(f"'{asset_id}': {exc}", asset_id=asset_id) from exc
        return dict(zip(self.folders, pngs, strict=True))

    def name(self, folder: str, asset_id: str, suffix: str, frame: int | None = None) -> str:
        """Return the name of a file; printable, because ``panoptic.json`` has it."""
        return map_name(folder, asset_id, frame, suffix)

    def build(self, journal: Path, categories: Categories) -> None:
        """Replace ``panoptic.json``, if that kind was chosen, from ``journal`` and the files.

        Raises:
            OutputError: A line is incomplete, or a file of a frame is missing.
        """
        if "panoptic" not in self.kinds:
            return
        things = zip(categories.thing_ids, categories.thing_names, strict=True)
        dump_panoptic(
            self.directory / "panoptic.json",
            (coco_image(record) for record in read_records(journal)),
            (self._annotation(record, categories) for record in read_records(journal)),
            ({"id": number, "name": name, "isthing": 1} for number, name in things),
        )

    def _annotation(self, record: dict[str, Any], categories: Categories) -> dict[str, Any]:
        asset_id, instances = asset_id_of(record), record["instances"]
        folder = f"{self.directory.name}/panoptic"
        name = self.name(folder, asset_id, self.suffix)
        if status_of(self.directory.parent / name) is None:  # not of a still
            name = self.name(folder, asset_id, self.suffix, record["frame"])
        path = self.directory.parent / name
        if status_of(path) is None:
            raise OutputError(
                f"'{path}' is missing; if an earlier run had another sink.masks.kind, run the same "
                "command with runner.on_change=restart"
            )
        found = segments_in(path)
        return {
            "image_id": record["image_id"],
            "file_name": name.removeprefix(f"{folder}/"),
            "segments_info": [
                {
                    "id": number,
                    "category_id": categories.thing_ids[instances[number - 1]["class_id"]],
                    "area": area,
                    "bbox": box,
                    "iscrowd": 0,
                    "score": instances[number - 1]["score"],
                }
                for number, (area, box) in found.items()
            ],
        }


def _painted(p: Predictions, lowest: np.float32) -> NDArray[np.uint16]:
    """Return uint16 ``(H, W)``: the position of the instance on top plus 1, or 0.

    Raises:
        ValueError: There are instances without masks, or too many.
    """
    canvas = np.zeros(p.image_size, np.uint16)
    if not len(p):
        return canvas
    if p.masks is None:
        raise ValueError("the model returns no masks; remove sink=masks")
    if len(p) > _MOST:
        raise ValueError(f"{len(p)} instances are more than a PNG of 16 bits can number ({_MOST})")
    for i in _from_bottom(p.scores):
        if not lowest or p.scores[i] >= lowest:
            crop, (x, y) = p.masks.crop(i)
            height, width = crop.shape
            canvas[y : y + height, x : x + width][crop] = i + 1
    return canvas


def _from_bottom(scores: NDArray[np.float32]) -> Iterator[int]:
    """Yield positions by score, the lowest first; of equal scores, the last first."""
    known = np.where(np.isnan(scores), -np.inf, scores)
    yield from np.argsort(-known, kind="stable")[::-1].tolist()


def _pixels(kind: Kind, positions: NDArray[np.uint16], p: Predictions) -> NDArray[Any]:
    if kind == "instance":
        return positions
    if kind == "panoptic":
        return panoptic_colors(positions)
    if len(p.class_names) > _MOST:
        raise ValueError(f"{len(p.class_names)} classes do not fit into a PNG of 16 bits")
    classes = np.concatenate([[0], p.classes + 1])
    return classes.astype(np.uint8 if len(p.class_names) <= 0xFF else np.uint16)[positions]
