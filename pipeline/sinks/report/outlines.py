"""Masks and label maps at the resolution of a page, as COCO's compressed RLE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import OutputError
from pipeline.masks import RLE, InstanceMasks
from pipeline.recorded.decoding import decode
from pipeline.records import Categories

_LONGER_SIDE = 1024  # px; masks of larger frames are reduced


class Outlines:
    """Makes masks for the page.

    Args:
        directory: The run directory, from which label maps are read.
        categories: The classes of the model.
    """

    def __init__(self, directory: Path, categories: Categories) -> None:
        self._directory = directory
        self._categories = categories

    def of_mask(self, mask: dict[str, Any]) -> RLE:
        """Return an instance's mask, reduced if the frame is large."""
        height, width = mask["size"]
        scale = _LONGER_SIDE / max(height, width)
        rle: RLE = {"size": [height, width], "counts": mask["counts"]}
        if scale >= 1:
            return rle
        masks = InstanceMasks.from_rle([rle], (height, width))
        crop, (x, y) = masks.crop(0)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        if not crop.size:
            return InstanceMasks.from_crops([crop], [(0, 0)], size).rle()[0]
        rows, top = _nearest(y, crop.shape[0], size[0] / height, size[0])
        columns, left = _nearest(x, crop.shape[1], size[1] / width, size[1])
        small = crop[np.ix_(rows, columns)]
        return InstanceMasks.from_crops([small], [(left, top)], size).rle()[0]

    def regions(self, record: dict[str, Any]) -> list[list[Any]]:
        """Return the class and mask of each region of stuff, from the label map.

        Stuff classes follow those of things. A map that cannot be read has no regions.
        """
        if "panoptic_seg" not in record and "sem_seg" not in record:
            return []
        try:
            p = decode(record | {"instances": []}, self._categories, self._directory).predictions
        except OutputError:
            return []
        n_things = len(self._categories.thing_names)
        if p.panoptic_seg is not None:
            stuff = {s.id: n_things + s.class_id for s in p.segments if not s.is_thing}
            return [[stuff[i], rle] for i, rle in _areas(p.panoptic_seg) if i in stuff]
        assert p.sem_seg is not None
        n_stuff = len(self._categories.stuff_names)
        return [[n_things + i, rle] for i, rle in _areas(p.sem_seg) if 0 <= i < n_stuff]


def _areas(label_map: NDArray[np.int32]) -> list[tuple[int, RLE]]:
    """Return each label of a map and its mask."""
    height, width = label_map.shape
    scale = min(1.0, _LONGER_SIDE / 2 / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    rows, _ = _nearest(0, height, size[0] / height, size[0])
    columns, _ = _nearest(0, width, size[1] / width, size[1])
    small = label_map[np.ix_(rows, columns)]
    labels = np.unique(small).tolist()
    masks = InstanceMasks.from_crops(
        [small == label for label in labels], [(0, 0)] * len(labels), size
    )
    return list(zip(labels, masks.rle(), strict=True))


def _nearest(first: int, n: int, scale: float, limit: int) -> tuple[NDArray[np.int64], int]:
    """Return which of ``n`` pixels from ``first`` on to keep, and where the first one goes."""
    start = int(first * scale)
    stop = min(max(start + 1, int(np.ceil((first + n) * scale))), limit)
    start = min(start, stop - 1)
    centers = (np.arange(start, stop) + 0.5) / scale - first
    return np.clip(centers.astype(np.int64), 0, n - 1), start
