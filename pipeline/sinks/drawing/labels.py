"""The labels of instances and regions: their text and how they are drawn."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.records import Predictions
from pipeline.sinks.drawing.colors import Color, text_color
from pipeline.sinks.drawing.maps import Region, region_centers
from pipeline.sinks.drawing.placement import place_labels
from pipeline.sinks.drawing.scale import Image
from pipeline.sinks.style import FIELD, TEMPLATE

_MAX_NAME_LENGTH = 32
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CV2_DRAWS_UNICODE = int(cv2.__version__.split(".")[0]) >= 5  # 4 has ASCII only


class Label(NamedTuple):
    """A text that belongs to a part of the scene.

    Attributes:
        text: One line.
        color: Background color.
        anchor: x1, y1, x2, y2 of the object that it names, or x, y of a point in the middle of a
            region; in pixels of the scene.
    """

    text: str
    color: Color
    anchor: Sequence[float]


def instance_labels(
    p: Predictions,
    corners: NDArray[np.float32],
    colors: Sequence[Color],
    template: str = TEMPLATE,
) -> list[Label]:
    """Return the labels of instances, highest score first.

    Args:
        p: N instances.
        corners: float32 ``(N, 4)``: the boxes in pixels of the scene.
        colors: The color of each instance.
        template: The argument of ``label_text``.
    """
    classes, scores, anchors = p.classes.tolist(), p.scores.tolist(), corners.tolist()
    tracks = [None] * len(p) if p.track_ids is None else p.track_ids.tolist()

    def text(i: int) -> str:
        return label_text(p.class_names[classes[i]], classes[i], scores[i], tracks[i], template)

    order = np.argsort(-p.scores, kind="stable").tolist()
    labels = (Label(text(i), colors[i], anchors[i]) for i in order)
    return [label for label in labels if label.text]


def region_labels(labels: NDArray[np.int32], regions: list[Region], factor: int) -> list[Label]:
    """Return the labels of a map's larger regions.

    Args:
        labels: int32 ``(H, W)``: the map.
        regions: The regions of the map.
        factor: Scene pixels per frame pixel.
    """
    return [
        Label(
            label_text(region.name, region.class_id, region.score, None),
            region.color,
            (x * factor, y * factor),
        )
        for region, (x, y) in region_centers(labels, regions)
    ]


def draw_labels(
    scene: Image, labels: Sequence[Label], objects: NDArray[np.float32], font_scale: float
) -> None:
    """Write labels into the scene, except those without a place; see ``place_labels``.

    Args:
        scene: uint8 ``(H, W, 3)``; changed in place.
        labels: The most important first.
        objects: float32 ``(N, 4)``: boxes of what should stay visible, in pixels of the scene.
        font_scale: In OpenCV's unit.
    """
    if not labels:
        return
    thickness, padding = max(1, round(1.6 * font_scale)), max(2, round(8 * font_scale))
    sizes, anchors = [], []
    for label in labels:
        (width, height), _ = cv2.getTextSize(label.text, _FONT, font_scale, thickness)
        width, height = width + 2 * padding, height + 2 * padding
        sizes.append((width, height))
        anchors.append(
            label.anchor if len(label.anchor) == 4 else _below(label.anchor, width, height)
        )
    places = place_labels(anchors, sizes, objects, (scene.shape[0], scene.shape[1]))
    for label, place in zip(labels, places, strict=True):
        if place is None:
            continue
        left, top, right, bottom = place
        cv2.rectangle(scene, (left, top), (right, bottom), label.color, cv2.FILLED)
        start, ink = (left + padding, bottom - padding), text_color(label.color)
        cv2.putText(scene, label.text, start, _FONT, font_scale, ink, thickness, cv2.LINE_AA)


def _below(center: Sequence[float], width: int, height: int) -> Sequence[float]:
    """Return a box without an area; a label above it is centered on a point."""
    left, bottom = center[0] - width / 2, center[1] + height / 2
    return left, bottom, left, bottom


def label_text(
    name: str,
    class_id: int,
    score: float | None,
    track_id: int | None,
    template: str = TEMPLATE,
) -> str:
    """Return ``#3 name 0.93``, or what another template makes of these parts.

    Long names are cut. OpenCV 5 draws Latin, Cyrillic, Greek and CJK letters. Older versions draw
    ASCII only: accents are dropped, and a name in another script becomes ``class 7``.

    Args:
        name: Name of the class.
        class_id: Id of the class.
        score: In [0, 1]; ``0.99+`` means 0.995 or more, because 1.00 would look certain.
            ``None`` for no score.
        track_id: Id of the track; ``None`` or negative for no track.
        template: Text in which ``{track}``, ``{name}``, ``{score}`` and ``{class_id}`` are
            replaced. What is not known is empty, and several spaces become one.
    """
    # half of a surrogate pair, in the names of a custom runnable, would end the process
    name = " ".join(name.encode(errors="replace").decode().split())
    if not (name.isascii() or _CV2_DRAWS_UNICODE):
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().strip()
        name = plain or f"class {class_id}"
    if len(name) > _MAX_NAME_LENGTH:
        name = name[: _MAX_NAME_LENGTH - 2] + ".."
    parts = {
        "track": "" if track_id is None or track_id < 0 else f"#{track_id}",
        "name": name,
        "score": "" if score is None else _score_text(score),
        "class_id": str(class_id),
    }
    return " ".join(FIELD.sub(lambda found: parts[found[1]], template).split())


def _score_text(score: float) -> str:
    return "0.99+" if score >= 0.995 else f"{score:.2f}"
