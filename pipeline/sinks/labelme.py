"""Annotation files for labelme."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Categories, Result
from pipeline.sinks.annotations.files import AnnotationFiles, Images
from pipeline.sinks.annotations.instances import Instance, instances_of
from pipeline.validation import check_choice, check_number

_VERSION = "5.5.0"  # the format's; labelme 5.2 and later know masks


class Labelme(AnnotationFiles):
    """Writes ``<directory>/<asset id>.json``, and images beside them.

    Masks are exact. An instance without a mask is a rectangle, keypoints are points. What belongs
    to one instance has the same ``group_id``. Each shape has its ``score`` and ``track_id``, and
    shows them in its description.

    Args:
        directory: Directory of the files, in the run directory.
        min_score: Write only instances with at least this score, 0 to 1.
        shapes: What an instance is: ``mask``, ``polygon`` (holes are lost, parts become separate
            shapes of a group) or ``box``.
        tolerance_px: Simplify polygons; their outline moves by at most this many pixels.
        images: ``link``, ``copy`` or ``none``, see ``AnnotationFiles``. The files name the image;
            with ``none``, they belong beside the images.

    Raises:
        ConfigError: An option has an invalid value.
    """

    suffix = ".json"

    def __init__(
        self,
        directory: str | Path,
        min_score: float = 0.0,
        shapes: Literal["mask", "polygon", "box"] = "mask",
        tolerance_px: float = 0.0,
        images: Images = "link",
    ) -> None:
        super().__init__(directory, min_score, images)
        check_choice("shapes", shapes, ("mask", "polygon", "box"))
        check_number("tolerance_px", tolerance_px, 0)
        self.shapes = shapes
        self.tolerance_px = tolerance_px
        self._keypoint_names: tuple[str, ...] = ()

    def check(self, categories: Categories) -> None:
        """Store the names of the keypoints.

        Raises:
            ConfigError: The model finds no instances.
        """
        super().check(categories)
        self._keypoint_names = categories.keypoint_names

    def encode(self, result: Result) -> bytes:
        """Return the annotation file of a frame."""
        height, width = result.predictions.image_size
        shapes = [
            shape
            for i, instance in enumerate(instances_of(result.predictions), 1)
            for shape in self._instance(i, instance)
        ]
        content: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": self.image_name(result.frame),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        # ASCII, so that a name that is not UTF-8 is read back as it is by Python
        return f"{json.dumps(content, indent=1)}\n".encode("ascii")

    def _instance(self, i: int, instance: Instance) -> Iterator[dict[str, Any]]:
        x1, y1, x2, y2 = instance.box
        named: list[tuple[str, str, Any, str | None]] = []
        label = instance.class_name
        if instance.mask is None or self.shapes == "box":
            named = [(label, "rectangle", [[x1, y1], [x2, y2]], None)]
        elif self.shapes == "mask":
            crop, (x, y) = instance.mask.crop(0)
            height, width = crop.shape
            corners = [[x, y], [x + width - 1, y + height - 1]]  # labelme's are inclusive
            named = [(label, "mask", corners, _png(crop))]
        else:
            outlines = [region.outline.tolist() for region in instance.regions(self.tolerance_px)]
            named = [(label, "polygon", outline, None) for outline in outlines]
        for k, (x_px, y_px, _) in enumerate(instance.keypoints or ()):
            if x_px is not None:
                names = self._keypoint_names
                name = names[k] if k < len(names) else f"keypoint {k}"
                named.append((name, "point", [[x_px, y_px]], None))
        facts: dict[str, Any] = {"score": instance.score}
        if instance.track_id is not None:
            facts["track_id"] = instance.track_id
        for label, kind, points, mask in named:
            yield {
                "label": label,
                "points": points,
                "group_id": i,
                "description": " ".join(f"{name}={value}" for name, value in facts.items()),
                "shape_type": kind,
                "flags": {},
                "mask": mask,
            } | facts


def _png(crop: NDArray[np.bool_]) -> str:
    import cv2  # takes 0.1 s, which most commands do not need

    _, png = cv2.imencode(".png", crop.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    return base64.b64encode(png.tobytes()).decode("ascii")
