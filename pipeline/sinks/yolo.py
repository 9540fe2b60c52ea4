"""A dataset in YOLO's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.records import Categories, Result
from pipeline.sinks.annotations.files import AnnotationFiles, Images
from pipeline.sinks.annotations.instances import Instance, instances_of
from pipeline.sinks.annotations.polygons import joined
from pipeline.validation import check_flag, check_number


class Yolo(AnnotationFiles):
    """Writes ``labels/<asset id>.txt``, images beside them in ``images/``, and ``data.yaml``.

    A line per instance: class and box; with masks, class and polygon; with keypoints, class, box
    and points, as for YOLO's pose models. YOLO has one polygon per instance, so parts and holes are
    joined by bridges without width; a mask without pixels is the polygon of its box. Scores and
    track ids are lost.

    Args:
        directory: Directory of the dataset, in the run directory.
        min_score: Write only instances with at least this score, 0 to 1.
        polygons: Write masks as polygons; otherwise only boxes.
        tolerance_px: Simplify polygons; their outline moves by at most this many pixels.
        images: ``link``, ``copy`` or ``none``, see ``AnnotationFiles``.

    Raises:
        ConfigError: An option has an invalid value.
    """

    suffix = ".txt"
    labels_folder = "labels/"
    images_folder = "images/"

    def __init__(
        self,
        directory: str | Path,
        min_score: float = 0.0,
        polygons: bool = True,
        tolerance_px: float = 0.0,
        images: Images = "link",
    ) -> None:
        super().__init__(directory, min_score, images)
        check_flag("polygons", polygons)
        check_number("tolerance_px", tolerance_px, 0)
        self.outputs += (f"{self.directory.name}/data.yaml",)
        self.polygons = polygons
        self.tolerance_px = tolerance_px
        self._categories = Categories()

    def check(self, categories: Categories) -> None:
        """Store the names of the classes.

        Raises:
            ConfigError: The model finds no instances.
        """
        super().check(categories)
        self._categories = categories

    def __enter__(self) -> Yolo:
        """Write ``data.yaml``, which names the classes."""
        self._folder.write(f"{self.directory.name}/data.yaml", _data(self._categories))
        return self

    def encode(self, result: Result) -> bytes:
        """Return the lines of a frame; none if there are no instances."""
        p = result.predictions
        height, width = p.image_size
        polygons = self.polygons and p.masks is not None and p.keypoints is None
        lines = []
        for instance in instances_of(p):
            values = self._polygon(instance) if polygons else _box(instance)
            sides = (width, height) * (len(values) // 2)
            scaled = [_share(value / side) for value, side in zip(values, sides, strict=True)]
            for x, y, score in instance.keypoints or ():
                if x is None or y is None or score is None:
                    scaled += ["0", "0", "0"]
                else:
                    scaled += [_share(x / width), _share(y / height), "2"]
            lines.append(" ".join([str(instance.class_id), *scaled]) + "\n")
        return "".join(lines).encode("ascii")

    def _polygon(self, instance: Instance) -> list[float]:
        regions = instance.regions(self.tolerance_px)
        if regions:
            return [float(value) for value in joined(regions).ravel()]
        x1, y1, x2, y2 = instance.box
        return [x1, y1, x2, y1, x2, y2, x1, y2]


def _box(instance: Instance) -> list[float]:
    x1, y1, x2, y2 = instance.box
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


def _share(value: float) -> str:
    """Return a share of the image's side; YOLO rejects files with values outside 0 to 1."""
    return f"{min(max(value, 0), 1):.6f}".rstrip("0").rstrip(".")


def _data(categories: Categories) -> bytes:
    # without `path`, images are found relative to this file, wherever it is moved
    content: dict[str, Any] = {"train": "images", "val": "images"}
    if categories.keypoint_names:
        content["kpt_shape"] = [len(categories.keypoint_names), 3]
    content["names"] = dict(enumerate(categories.thing_names))
    # ASCII, because some tools open the file in the locale's encoding
    return yaml.safe_dump(content, sort_keys=False, width=1 << 20).encode("ascii")
