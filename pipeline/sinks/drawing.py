"""Drawing predictions on a picture, with supervision's annotators."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from math import sqrt
from typing import TypeVar

import cv2
import numpy as np
import supervision as sv
from numpy.typing import NDArray

from pipeline.records import Predictions
from pipeline.sinks.labels import draw_labels

Image = NDArray[np.uint8]
_Pixel = TypeVar("_Pixel", bound=np.generic)
_ENLARGED_PX = 480  # pictures are enlarged by a whole number to at most this longer side
_KEYPOINT_THRESHOLD = 0.05  # Detectron2's Visualizer draws none below


class Painter:
    """Draws one frame's predictions.

    Args:
        masks: Draw instance masks, semantic and panoptic maps.
        boxes: Draw boxes.
        labels: Draw labels.
        opacity: Of masks and maps, 0..1.
        skeleton: Pairs of keypoints to join.
    """

    def __init__(
        self,
        masks: bool = True,
        boxes: bool = True,
        labels: bool = True,
        *,
        opacity: float = 0.45,
        skeleton: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.masks, self.boxes, self.labels = masks, boxes, labels
        self.opacity = opacity
        self.skeleton = list(skeleton)

    def draw(self, image: Image, predictions: Predictions) -> Image:
        """Return a new picture; ``image`` stays as it is.

        Masks are drawn one by one in their boxes, so memory does not grow with their number.

        Args:
            image: uint8 ``(H, W, 3)``, BGR.
            predictions: What to draw; instances whose box is not finite are left out.

        Returns:
            uint8 ``(f * H, f * W, 3)``, BGR; ``f`` is 1 above 240 px.
        """
        finite = np.isfinite(predictions.boxes).all(axis=1)
        p = predictions if finite.all() else predictions[np.asarray(finite)]
        factor = max(1, _ENLARGED_PX // max(image.shape[:2]))
        scene = _enlarged(image, factor).copy()
        height, width = scene.shape[:2]
        # supervision's calculate_optimal_* look at the shorter side alone and have two
        # thicknesses: hardly visible at 24 MP, text of one pixel on a narrow strip
        side = sqrt(height * width)
        thickness = max(2, round(side / 500))
        if self.masks:
            _draw_maps(scene, p, factor, self.opacity)
            _draw_masks(scene, p, factor, self.opacity)
        corners = np.clip(p.boxes * factor, 0, np.array([width, height] * 2) - 1)
        if self.boxes:
            _draw_boxes(scene, corners, p, thickness)
        if p.keypoints is not None:
            _draw_keypoints(scene, p.keypoints, factor, thickness, self.skeleton)
        if self.labels:
            palettes = _palettes(len(p.class_names), len(p.stuff_names))
            scale = max(0.4, side / 1900)
            draw_labels(scene, corners, p, factor, scale, palettes, maps=self.masks)
        return scene


@lru_cache(maxsize=16)
def _palettes(n_things: int, n_stuff: int) -> tuple[sv.ColorPalette, sv.ColorPalette]:
    """Return the classes' colours, things before stuff, and those of text on them.

    A class's colour depends on its id alone. Steps of the golden angle keep the hues of
    neighbouring ids apart; stuff is paler than things.
    """
    colours, texts = [], []
    for i in range(max(1, n_things + n_stuff)):
        number, saturation = (i, 0.9) if i < n_things else (i - n_things, 0.45)
        hue = (0.02 + (0 if i < n_things else 0.3) + number * 0.381966) % 1
        rgb = colorsys.hsv_to_rgb(hue, saturation, (0.95, 0.75, 0.85)[number % 3])
        r, g, b = (round(255 * value) for value in rgb)
        colours.append(sv.Color(r, g, b))
        dark = 0.299 * r + 0.587 * g + 0.114 * b < 140
        texts.append(sv.Color.WHITE if dark else sv.Color.BLACK)
    return sv.ColorPalette(colours), sv.ColorPalette(texts)


def _colours(p: Predictions) -> sv.ColorPalette:
    return _palettes(len(p.class_names), len(p.stuff_names))[0]


def _enlarged(pixels: NDArray[_Pixel], factor: int) -> NDArray[_Pixel]:
    return pixels if factor == 1 else pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _draw_maps(scene: Image, p: Predictions, factor: int, opacity: float) -> None:
    """Blend the panoptic map, else the semantic one, into the scene.

    Things are left to the instance masks where there are any.
    """
    palette, n = _colours(p), len(p.class_names)
    if p.panoptic_seg is not None:
        labels = p.panoptic_seg
        classes = {
            s.id: s.class_id if s.is_thing else n + s.class_id
            for s in p.segments
            if p.masks is None or not s.is_thing
        }
    elif p.sem_seg is not None:
        labels = p.sem_seg
        # Detectron2's panoptic models have a first stuff class that stands for all things
        classes = {i: n + i for i, name in enumerate(p.stuff_names) if name != "things"}
    else:
        return
    # by label + 1, with no colour first and last: that is where ids that are no class end up
    table = np.zeros((max([0, *classes]) + 3, 4), np.uint8)
    for label, class_id in classes.items():
        table[label + 1] = (*palette.by_idx(class_id).as_bgr(), 1)
    rows = max(1, 1_000_000 // labels.shape[1])  # in strips, for the copies that this takes
    for top in range(0, labels.shape[0], rows):
        known = np.take(table.view(np.int32)[:, 0], labels[top : top + rows] + 1, mode="clip")
        painted = _enlarged(known, factor).view(np.uint8).reshape(-1, known.shape[1] * factor, 4)
        strip = scene[top * factor : (top + rows) * factor]
        colours = np.asarray(cv2.cvtColor(painted, cv2.COLOR_BGRA2BGR), np.uint8)
        _blend(strip, colours, np.ascontiguousarray(painted[..., 3]), opacity)


def _draw_masks(scene: Image, p: Predictions, factor: int, opacity: float) -> None:
    # supervision's MaskAnnotator does the same with NumPy, more than three times as slowly
    if p.masks is None:
        return
    palette = _colours(p)
    for i in np.argsort(-p.masks.area_px, kind="stable").tolist():  # the small ones on top
        crop, (x, y) = p.masks.crop(i)
        if crop.size:
            # crops lie column by column, and OpenCV turns them faster than NumPy
            mask = cv2.transpose(_enlarged(crop.T.view(np.uint8), factor))
            height, width = mask.shape
            part = scene[y * factor : y * factor + height, x * factor : x * factor + width]
            colour = palette.by_idx(int(p.classes[i])).as_bgr()
            mixed = cv2.LUT(part, _mixture(colour, opacity))
            cv2.copyTo(mixed, mask, part)


@lru_cache(maxsize=1024)
def _mixture(colour: tuple[int, int, int], opacity: float) -> Image:
    """Return what each level of each channel becomes below a colour: uint8 ``(256, 1, 3)``."""
    levels = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    painted = np.broadcast_to(np.array(colour, np.uint8), levels.shape).copy()
    return np.asarray(cv2.addWeighted(painted, opacity, levels, 1 - opacity, 0), np.uint8)


def _blend(part: Image, painted: Image, mask: Image, opacity: float) -> None:
    """Mix ``painted`` into ``part``, in place, where ``mask`` is not 0."""
    cv2.copyTo(cv2.addWeighted(painted, opacity, part, 1 - opacity, 0), mask, part)


def _draw_boxes(scene: Image, corners: NDArray[np.float32], p: Predictions, thickness: int) -> None:
    thin = (corners[:, 2:] - corners[:, :2]).min(axis=1) < 10 * thickness
    for chosen, width in ((~thin, thickness), (thin, max(1, thickness // 3))):
        if not chosen.any():
            continue
        detections = sv.Detections(xyxy=corners[chosen], class_id=p.classes[chosen])
        sv.BoxAnnotator(_colours(p), width).annotate(scene, detections)


def _draw_keypoints(
    scene: Image,
    keypoints: NDArray[np.float32],
    factor: int,
    thickness: int,
    skeleton: list[tuple[int, int]],
) -> None:
    shown = (keypoints[..., 2] > _KEYPOINT_THRESHOLD) & np.isfinite(keypoints).all(axis=2)
    # supervision skips points at the origin
    points = sv.KeyPoints(np.where(shown[..., None], keypoints[..., :2] * factor, 0))
    if skeleton:
        edges = [(a + 1, b + 1) for a, b in skeleton]  # supervision counts from 1
        sv.EdgeAnnotator(sv.Color(0, 220, 255), thickness, edges).annotate(scene, points)
    sv.VertexAnnotator(sv.Color(255, 60, 60), thickness + 1).annotate(scene, points)
