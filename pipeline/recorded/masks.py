"""Instance masks that stay in COCO's RLE, as in ``predictions.jsonl``, until they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.masks import RLE, Edges, InstanceMasks


class RecordedMasks(InstanceMasks):
    """Masks that are decoded on first use; selecting and encoding them decodes nothing.

    Args:
        size: ``(height, width)`` of the frame in pixels.
        encoded: COCO's compressed RLE of each mask.
    """

    __slots__ = ("_encoded",)
    _encoded: tuple[RLE, ...]

    def __init__(self, size: tuple[int, int], encoded: Sequence[RLE]) -> None:
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "_encoded", tuple(encoded))

    @property
    def edges(self) -> tuple[Edges, ...]:
        """One array per mask, as ``pipeline.masks.crop_edges`` returns it.

        Raises:
            ValueError: A mask is damaged.
        """
        return tuple(_decoded(mask["counts"], self.size) for mask in self._encoded)

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self._encoded)

    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> InstanceMasks:
        """Select masks by slice, positions or boolean mask."""
        chosen = np.arange(len(self))[index]
        return RecordedMasks(self.size, [self._encoded[i] for i in chosen])

    @property
    def area_px(self) -> NDArray[np.int64]:
        """int64 ``(N,)``: number of pixels of each mask."""
        return np.array([int(coco_mask.area(mask)) for mask in self._encoded], np.int64)

    def rle(self) -> list[RLE]:
        """Return COCO's compressed RLE of each mask."""
        return list(self._encoded)


@lru_cache(maxsize=128)  # a painter asks for the masks of a frame one by one
def _decoded(counts: str, size: tuple[int, int]) -> Edges:
    edges = edges_of(counts, size)
    edges.setflags(write=False)
    return edges


def edges_of(counts: str, size: tuple[int, int]) -> Edges:
    """Decode COCO's compressed counts.

    A count is written as groups of five bits, the lowest first, in characters from ``0`` on. Bit 5
    says that another group follows; the last group's bit 4 is the sign. From the fourth count on,
    the difference from the last but one is written.

    Args:
        counts: The text of the counts.
        size: ``(height, width)`` of the frame in pixels.

    Returns:
        int64 ``(2 * runs,)``, as ``pipeline.masks.crop_edges`` returns it.

    Raises:
        ValueError: The counts are damaged, or of a frame of another size.
    """
    groups = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    last = (groups & 0x20) == 0
    if not len(groups) or not last[-1] or groups.min() < 0 or groups.max() > 0x3F:
        raise ValueError(f"damaged mask: the counts {counts[:20]!r} are not COCO's")
    firsts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    lengths = np.diff(np.append(firsts, len(groups)))
    if lengths.max() > 12:  # of 64 bits
        raise ValueError(f"damaged mask: the counts {counts[:20]!r} are not COCO's")
    shifts = 5 * (np.arange(len(groups)) - np.repeat(firsts, lengths))
    runs = np.add.reduceat((groups & 0x1F) << shifts, firsts)
    runs -= np.where(groups[last] & 0x10, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    ends = np.cumsum(runs)
    if runs.min() < 0 or ends[-1] != size[0] * size[1]:
        raise ValueError(f"damaged mask: its runs do not cover a frame of {size[1]} x {size[0]} px")
    pairs = ends[: len(ends) // 2 * 2].reshape(-1, 2)
    # what COCO's tools write has no empty runs, except before a first pixel that is set
    edges: Edges = pairs[pairs[:, 0] < pairs[:, 1]].ravel()
    touching = np.flatnonzero(edges[1:-1:2] == edges[2::2])
    return np.delete(edges, np.concatenate([2 * touching + 1, 2 * touching + 2]))
