"""An aggregate that writes tasks for Label Studio, with the results as pre-annotations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pipeline.records import Categories
from pipeline.sinks.annotations.instances import Instance, check_has_instances, instances_in
from pipeline.sinks.annotations.run_lengths import label_studio_rle
from pipeline.sinks.annotations.text import NamedLine, printable, read_named, xml_text
from pipeline.sinks.coco_format import dump_list
from pipeline.system.files import replaced
from pipeline.validation import check, check_choice, check_number

_TYPES = {"mask": "brushlabels", "polygon": "polygonlabels", "box": "rectanglelabels"}
_TAGS = {"brushlabels": "BrushLabels", "polygonlabels": "PolygonLabels"} | {
    "rectanglelabels": "RectangleLabels"
}


class LabelStudio:
    """Writes ``labelstudio.json``, tasks to import, and ``labelstudio.xml``, a labeling interface.

    Each frame is a task with one prediction, which annotators see and correct. Masks are exact. An
    instance without a mask is a box. Keypoints are children of the box of their instance. Track
    ids are lost. Instances whose box or score is not finite are skipped.

    The lines are streamed, so memory does not grow with their number. Equal lines give
    byte-identical files.

    Args:
        directory: The run directory, where the files are written.
        min_score: Write only instances with at least this score, 0 to 1.
        shapes: What an instance is: ``mask``, ``polygon`` (holes are lost, parts become separate
            shapes) or ``box``.
        tolerance_px: Simplify polygons; their outline moves by at most this many pixels.
        image_url: Text before the asset id in a task's URL, which is percent-encoded.
        model_version: The name under which Label Studio shows the predictions.

    Raises:
        ConfigError: An option has an invalid value.
    """

    is_aggregate: Literal[True] = True
    outputs = "labelstudio.json", "labelstudio.xml"
    needs_pixels = False

    def __init__(
        self,
        directory: str | Path,
        min_score: float = 0.0,
        shapes: Literal["mask", "polygon", "box"] = "mask",
        tolerance_px: float = 0.0,
        image_url: str = "/data/local-files/?d=",
        model_version: str = "d2run",
    ) -> None:
        check_number("min_score", min_score, 0, 1)
        check_choice("shapes", shapes, tuple(_TYPES))
        check_number("tolerance_px", tolerance_px, 0)
        for option, text in (("image_url", image_url), ("model_version", model_version)):
            check(option, text, isinstance(text, str), "text")
        self.directory = Path(directory)
        self.min_score = min_score
        self.shapes = shapes
        self.tolerance_px = tolerance_px
        self.image_url = image_url
        self.model_version = model_version

    def check(self, categories: Categories) -> None:
        """Raise ConfigError for a model without instances."""
        check_has_instances(categories)

    def build(self, journal: Path, categories: Categories) -> None:
        """Read ``journal`` and replace the files, each atomically.

        Raises:
            OutputError: A line is incomplete.
        """
        with replaced(self.directory / "labelstudio.json") as file:
            lines = read_named(journal, self.min_score)
            dump_list(file, (self._task(line, categories) for line in lines))
            file.write(b"\n")
        with replaced(self.directory / "labelstudio.xml") as file:
            file.write(self._interface(categories).encode())

    def _task(self, line: NamedLine, categories: Categories) -> dict[str, Any]:
        record, name, scores = line.record, line.name, []
        results: list[dict[str, Any]] = []
        frame = {"original_width": record["width"], "original_height": record["height"]}
        for i, instance in enumerate(instances_in(record), 1):
            scores.append(instance.score)
            for j, shape in enumerate(self._shapes(instance, record, categories), 1):
                first = {"id": f"{i}" if j == 1 else f"{i}-{j}", "to_name": "image"}
                if "keypointlabels" in shape["value"]:
                    first["parentID"] = f"{i}"
                results.append(first | shape | frame | {"image_rotation": 0})
        data = {"image": self.image_url + quote(os.fsencode(name)), "asset": printable(name)}
        if line.is_frame:
            data |= {"frame": record["frame"], "time_s": record["time_s"]}
        prediction: dict[str, Any] = {"model_version": self.model_version, "result": results}
        if scores:
            prediction["score"] = round(sum(scores) / len(scores), 6)
        return {"data": data, "predictions": [prediction]}

    def _shapes(
        self, instance: Instance, record: dict[str, Any], categories: Categories
    ) -> Iterator[dict[str, Any]]:
        width, height = record["width"], record["height"]
        kind = self.shapes if instance.mask is not None else "box"
        values: list[dict[str, Any]] = []
        if kind == "mask" and instance.mask is not None:
            values = [{"format": "rle", "rle": label_studio_rle(instance.mask)}]
        elif kind == "polygon":
            outlines = [region.outline for region in instance.regions(self.tolerance_px)]
            values = [{"points": (100 * o / [width, height]).tolist()} for o in outlines]
        else:
            x1, y1, x2, y2 = instance.box
            values = [
                {
                    "x": 100 * x1 / width,
                    "y": 100 * y1 / height,
                    "width": 100 * (x2 - x1) / width,
                    "height": 100 * (y2 - y1) / height,
                    "rotation": 0,
                }
            ]
        labels = _TYPES[kind]
        for value in values:
            value[labels] = [instance.class_name]
            yield {
                "from_name": kind,
                "type": labels,
                "value": value,
                "score": instance.score,
            }
        for k, (x, y, score) in enumerate(instance.keypoints or ()):
            if x is not None and y is not None:
                yield {
                    "from_name": "keypoint",
                    "type": "keypointlabels",
                    "value": {
                        "x": 100 * x / width,
                        "y": 100 * y / height,
                        "width": 0.5,  # percent: how large the point is drawn
                        "keypointlabels": [_keypoint_name(categories, k)],
                    },
                    "score": score,
                }

    def _interface(self, categories: Categories) -> str:
        lines = ["<View>", '  <Image name="image" value="$image" zoom="true"/>']
        kinds = dict.fromkeys([self.shapes, "box"])  # instances without a mask are boxes
        for kind in kinds:
            tag = _TAGS[_TYPES[kind]]
            lines += [f'  <{tag} name="{kind}" toName="image">', *_labels(categories.thing_names)]
            lines += [f"  </{tag}>"]
        if categories.keypoint_names:
            lines += ['  <KeyPointLabels name="keypoint" toName="image">']
            lines += [*_labels(categories.keypoint_names), "  </KeyPointLabels>"]
        return "\n".join([*lines, "</View>", ""])


def _labels(names: tuple[str, ...]) -> list[str]:
    return [f'    <Label value="{xml_text(name)}"/>' for name in names]


def _keypoint_name(categories: Categories, k: int) -> str:
    names = categories.keypoint_names
    return names[k] if k < len(names) else f"keypoint {k}"
