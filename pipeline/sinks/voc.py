"""A dataset in the format of Pascal VOC."""

from __future__ import annotations

from pathlib import Path

from pipeline.records import Result
from pipeline.sinks.annotations.files import AnnotationFiles, Images
from pipeline.sinks.annotations.instances import Instance, instances_of
from pipeline.sinks.annotations.text import xml_text


class Voc(AnnotationFiles):
    """Writes ``Annotations/<asset id>.xml``, and images beside them in ``JPEGImages/``.

    VOC has boxes in whole pixels, the first of which is 1. Masks and keypoints are lost. Scores and
    track ids are extra elements of an object, which most readers ignore.

    Args:
        directory: Directory of the dataset, in the run directory.
        min_score: Write only instances with at least this score, 0 to 1.
        images: ``link``, ``copy`` or ``none``, see ``AnnotationFiles``.

    Raises:
        ConfigError: An option has an invalid value.
    """

    suffix = ".xml"
    labels_folder = "Annotations/"
    images_folder = "JPEGImages/"

    def __init__(
        self,
        directory: str | Path,
        min_score: float = 0.0,
        images: Images = "link",
    ) -> None:
        super().__init__(directory, min_score, images)

    def encode(self, result: Result) -> bytes:
        """Return the annotation of a frame."""
        height, width = result.predictions.image_size
        objects = [_object(each, height, width) for each in instances_of(result.predictions)]
        text = (
            "<annotation>\n"
            f"  <filename>{xml_text(self.image_name(result.frame))}</filename>\n"
            "  <source><database>d2run</database></source>\n"
            f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
            f"  <segmented>0</segmented>\n{''.join(objects)}</annotation>\n"
        )
        return text.encode()


def _object(instance: Instance, height: int, width: int) -> str:
    x1, y1, x2, y2 = (round(value) for value in instance.box)
    xmin, ymin = min(max(x1 + 1, 1), width), min(max(y1 + 1, 1), height)
    xmax, ymax = max(min(x2, width), xmin), max(min(y2, height), ymin)
    track = "" if instance.track_id is None else f"    <track_id>{instance.track_id}</track_id>\n"
    return (
        f"  <object>\n    <name>{xml_text(instance.class_name)}</name>\n"
        "    <pose>Unspecified</pose>\n"
        "    <truncated>0</truncated>\n    <difficult>0</difficult>\n"
        f"    <bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>\n"
        f"    <score>{instance.score}</score>\n{track}  </object>\n"
    )
