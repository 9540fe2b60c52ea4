"""Semantic and panoptic label maps: their regions, colors and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.records import Predictions
from pipeline.sinks.drawing.colors import Color, ColorBy, class_color, color, stuff_color
from pipeline.sinks.drawing.scale import Image, enlarged

_MIN_LABELED_SHARE = 0.01  # of the image; a label would hide most of a smaller region
_STRIP_PX = 1_000_000


class Region(NamedTuple):
    """The pixels of a map that have one value.

    Attributes:
        value: The value of the pixels in the map.
        name: Name of the class.
        class_id: Id of the class, among things or among stuff.
        color: Blue, green, red.
        score: The score of a thing, in [0, 1]; ``None`` for stuff.
    """

    value: int
    name: str
    class_id: int
    color: Color
    score: float | None


def map_regions(
    p: Predictions, color_by: ColorBy, named: Mapping[str, Color] = MappingProxyType({})
) -> tuple[NDArray[np.int32], list[Region]] | None:
    """Return the panoptic map, else the semantic one, and its regions; ``None`` without maps.

    Things are left to the instance masks if there are any.
    """
    if p.panoptic_seg is not None:
        segments = [s for s in p.segments if p.masks is None or not s.is_thing]
        regions = []
        n_things = 0
        for s in segments:
            if s.is_thing:
                is_by_class = color_by == "class"
                chosen = (
                    class_color(s.class_name, s.class_id, named) if is_by_class else color(n_things)
                )
                n_things += 1
            else:
                chosen = named.get(s.class_name) or stuff_color(s.class_id)
            regions.append(Region(s.id, s.class_name, s.class_id, chosen, s.score))
        return p.panoptic_seg, regions
    if p.sem_seg is not None:
        # Detectron2's panoptic models have a first stuff class that stands for all things
        names = [(i, name) for i, name in enumerate(p.stuff_names) if name != "things"]
        return p.sem_seg, [
            Region(i, name, i, named.get(name) or stuff_color(i), None) for i, name in names
        ]
    return None


def draw_map(
    scene: Image, labels: NDArray[np.int32], regions: list[Region], factor: int, opacity: float
) -> None:
    """Blend the regions of a map into the scene.

    Args:
        scene: uint8 ``(f * H, f * W, 3)``, BGR; changed in place.
        labels: int32 ``(H, W)``: the map.
        regions: The regions to draw.
        factor: ``f``, scene pixels per frame pixel.
        opacity: Opacity of the colors, in [0, 1].
    """
    # by value + 1; the first and last row, without color, catch the values of no region
    table = np.zeros((max([0, *(region.value for region in regions)]) + 3, 4), np.uint8)
    for region in regions:
        table[region.value + 1] = (*region.color, 1)
    rows = max(1, _STRIP_PX // labels.shape[1])  # in strips, to bound the memory of the copies
    for top in range(0, labels.shape[0], rows):
        known = np.take(table.view(np.int32)[:, 0], labels[top : top + rows] + 1, mode="clip")
        painted = enlarged(known, factor).view(np.uint8).reshape(-1, known.shape[1] * factor, 4)
        strip = scene[top * factor : (top + rows) * factor]
        colors = cv2.cvtColor(painted, cv2.COLOR_BGRA2BGR)
        mixed = cv2.addWeighted(colors, opacity, strip, 1 - opacity, 0)
        cv2.copyTo(mixed, np.ascontiguousarray(painted[..., 3]), strip)


def region_centers(
    labels: NDArray[np.int32], regions: list[Region]
) -> Iterator[tuple[Region, tuple[float, float]]]:
    """Yield each larger region and a point deep inside it, ``(x, y)`` in frame pixels."""
    step = max(1, max(labels.shape) // 256)  # the position need not be exact
    small = labels[::step, ::step]
    present = set(np.unique(small).tolist())
    for region in regions:
        mask = (small == region.value).astype(np.uint8) if region.value in present else None
        if mask is None or mask.sum() < _MIN_LABELED_SHARE * mask.size:
            continue
        # of the pixels far from the region's edge and the frame's, the one nearest its center
        depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        deep = np.argwhere(depth >= 0.9 * depth.max())
        off_center = deep - np.argwhere(mask).mean(axis=0)
        y, x = (deep[int((off_center**2).sum(axis=1).argmin())] * step + 0.5).tolist()
        yield region, (x, y)
