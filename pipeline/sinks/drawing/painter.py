"""Decides which of a frame's predictions are drawn, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.records import Predictions
from pipeline.sinks.drawing.colors import ColorBy, instance_colors
from pipeline.sinks.drawing.effects import draw_halos, hide_instances
from pipeline.sinks.drawing.instances import draw_boxes, draw_keypoints, draw_masks
from pipeline.sinks.drawing.labels import draw_labels, instance_labels, region_labels
from pipeline.sinks.drawing.maps import draw_map, map_regions
from pipeline.sinks.drawing.scale import Image, Scale, enlarged
from pipeline.sinks.style import Style


class Painter:
    """Draws one frame's predictions.

    Args:
        masks: Draw instance masks, semantic and panoptic maps.
        boxes: Draw boxes.
        labels: Draw labels.
        color: Whether the color is chosen per ``class``, ``instance`` or ``track``.
        opacity: Opacity of masks and maps, in [0, 1].
        skeleton: Pairs of keypoints to join.
        style: Colors and sizes.
    """

    def __init__(
        self,
        masks: bool = True,
        boxes: bool = True,
        labels: bool = True,
        *,
        color: ColorBy = "class",
        opacity: float = 0.45,
        skeleton: Sequence[tuple[int, int]] = (),
        style: Style = Style(),  # noqa: B008 - it is frozen
    ) -> None:
        self.masks, self.boxes, self.labels = masks, boxes, labels
        self.color: ColorBy = color
        self.opacity = opacity
        self.skeleton = tuple(skeleton)
        self.style = style

    def draw(self, image: Image, predictions: Predictions) -> Image:
        """Return a new image; the given one does not change.

        Args:
            image: uint8 ``(H, W, 3)``, BGR.
            predictions: The predictions to draw; instances whose box is not finite are skipped.

        Returns:
            uint8 ``(f * H, f * W, 3)``, BGR. ``f`` is 1 if the longer side is over 480 px, else the
            smallest whole number that makes it so.
        """
        finite = np.isfinite(predictions.boxes).all(axis=1)
        p = predictions if finite.all() else predictions[np.asarray(finite)]
        style = self.style
        scale = Scale.of(*image.shape[:2]).times(style.line_scale, style.text_scale)
        scene = enlarged(image, scale.factor).copy()
        height, width = scene.shape[:2]
        corners = np.clip(p.boxes * scale.factor, 0, np.array([width, height] * 2) - 1)
        colors = instance_colors(p, self.color, style.colors)
        regions = map_regions(p, self.color, style.colors) if self.masks else None
        if self.masks and (style.mask_style == "blur" or style.mask_style == "pixelate"):
            hide_instances(scene, p, scale, style.mask_style)
        if regions is not None:
            draw_map(scene, *regions, scale.factor, self.opacity)
        if self.masks and p.masks is not None:
            if style.mask_style == "halo":
                draw_halos(scene, p.masks, colors, scale, self.opacity)
            elif style.mask_style == "fill" or style.mask_style == "outline":
                opacity = self.opacity if style.mask_style == "fill" else 0
                draw_masks(scene, p.masks, colors, scale, opacity)
        if self.boxes:
            draw_boxes(scene, corners, colors, scale)
        if p.keypoints is not None:
            limbs = None if self.color == "class" else colors
            draw_keypoints(scene, p.keypoints, corners, self.skeleton, scale, limbs)
        if self.labels:
            labels = instance_labels(p, corners, colors, style.label)
            if regions is not None:
                labels += region_labels(*regions, scale.factor)
            draw_labels(scene, labels, corners, scale.font)
        return scene
