"""An aggregate that writes annotations for CVAT: its own XML, and COCO as it reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pipeline.records import Categories
from pipeline.sinks.annotations.instances import Instance, check_has_instances, instances_in
from pipeline.sinks.annotations.run_lengths import cvat_rle
from pipeline.sinks.annotations.text import NamedLine, number, printable, read_named, xml_text
from pipeline.sinks.coco import write_coco
from pipeline.system.files import replaced
from pipeline.validation import check_choice, check_number

_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'


class Cvat:
    """Writes ``cvat.xml`` ("CVAT for images 1.1") and ``cvat_coco.json`` ("COCO 1.0").

    Both are for ``cvat-cli task import-dataset``. In the XML, masks are exact, an instance without
    a mask is a box, keypoints are points, and all shapes of an instance form a group. The
    attributes ``score`` and ``track_id`` are kept by labels that have attributes of these names. In
    the COCO file, category ids start at 1, which CVAT requires. Instances whose box or score is
    not finite are skipped.

    CVAT finds stills by name, frames of a video by number, so a video needs its own task.

    The lines are streamed, so memory does not grow with their number. Equal lines give
    byte-identical files.

    Args:
        directory: The run directory, where the files are written.
        min_score: Write only instances with at least this score, 0 to 1.
        shapes: What an instance is: ``mask``, ``polygon`` (in the XML, holes are lost and parts
            become separate shapes of a group; in the COCO file, masks with holes stay masks) or
            ``box`` (the COCO file has masks all the same).
        tolerance_px: Simplify the polygons of the XML; their outline moves by at most this many
            pixels.

    Raises:
        ConfigError: An option has an invalid value.
    """

    is_aggregate: Literal[True] = True
    outputs = "cvat.xml", "cvat_coco.json"
    needs_pixels = False

    def __init__(
        self,
        directory: str | Path,
        min_score: float = 0.0,
        shapes: Literal["mask", "polygon", "box"] = "mask",
        tolerance_px: float = 0.0,
    ) -> None:
        check_number("min_score", min_score, 0, 1)
        check_choice("shapes", shapes, ("mask", "polygon", "box"))
        check_number("tolerance_px", tolerance_px, 0)
        self.directory = Path(directory)
        self.min_score = min_score
        self.shapes = shapes
        self.tolerance_px = tolerance_px

    def check(self, categories: Categories) -> None:
        """Raise ConfigError for a model without instances."""
        check_has_instances(categories)

    def build(self, journal: Path, categories: Categories) -> None:
        """Read ``journal`` and replace the files, each atomically.

        Raises:
            OutputError: A line is incomplete.
        """
        with replaced(self.directory / "cvat.xml") as file:
            file.write((_HEAD + _meta(categories)).encode())
            for i, line in enumerate(read_named(journal, self.min_score)):
                file.write("".join(self._image(i, line)).encode())
            file.write(b"</annotations>\n")
        renumbered = Categories(
            categories.thing_names,
            keypoint_names=categories.keypoint_names,
            skeleton=categories.skeleton,
        )
        with replaced(self.directory / "cvat_coco.json") as dataset:
            write_coco(
                lambda: map(_named, read_named(journal, self.min_score)),
                renumbered,
                dataset,
                polygons=self.shapes == "polygon",
            )

    def _image(self, i: int, line: NamedLine) -> Iterator[str]:
        record = line.record
        frame_id = record["frame"] if line.is_frame else i
        yield (
            f'  <image id="{frame_id}" name="{xml_text(line.name)}" '
            f'width="{record["width"]}" height="{record["height"]}">\n'
        )
        for group, instance in enumerate(instances_in(record), 1):
            attributes = {"score": instance.score, "track_id": instance.track_id}
            inside = "".join(
                f'      <attribute name="{name}">{value}</attribute>\n'
                for name, value in attributes.items()
                if value is not None
            )
            for tag, geometry in self._shapes(instance):
                yield (
                    f'    <{tag} label="{xml_text(instance.class_name)}" source="auto" '
                    f'occluded="0" {geometry} z_order="0" group_id="{group}">\n'
                    f"{inside}    </{tag}>\n"
                )
        yield "  </image>\n"

    def _shapes(self, instance: Instance) -> Iterator[tuple[str, str]]:
        """Yield the tags of an instance, each with its attributes."""
        if instance.mask is None or self.shapes == "box":
            x1, y1, x2, y2 = map(number, instance.box)
            yield "box", f'xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"'
        elif self.shapes == "mask":
            crop, (x, y) = instance.mask.crop(0)
            height, width = crop.shape
            rle = ", ".join(map(str, cvat_rle(crop)))
            yield (
                "mask",
                f'rle="{rle}" left="{x}" top="{y}" width="{width}" height="{height}"',
            )
        else:
            for region in instance.regions(self.tolerance_px):
                yield "polygon", f'points="{_points(region.outline.tolist())}"'
        points = [(x, y) for x, y, _ in instance.keypoints or () if x is not None and y is not None]
        if points:
            yield "points", f'points="{_points(points)}"'


def _points(points: list[tuple[float, float]]) -> str:
    return ";".join(f"{number(x)},{number(y)}" for x, y in points)


def _named(line: NamedLine) -> dict[str, Any]:
    return line.record | {"asset": printable(line.name)}


def _meta(categories: Categories) -> str:
    """Return the labels, for tools that read the file without a task."""
    labels = [
        f"        <label>\n          <name>{xml_text(name)}</name>\n"
        "          <attributes>\n" + _attribute("score") + _attribute("track_id") + ""
        "          </attributes>\n        </label>\n"
        for name in categories.thing_names
    ]
    return (
        "  <meta>\n    <task>\n      <mode>annotation</mode>\n      <labels>\n"
        f"{''.join(labels)}      </labels>\n    </task>\n  </meta>\n"
    )


def _attribute(name: str) -> str:
    return (
        f"            <attribute>\n              <name>{name}</name>\n"
        "              <input_type>text</input_type>\n            </attribute>\n"
    )
