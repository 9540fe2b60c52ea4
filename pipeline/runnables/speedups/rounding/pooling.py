"""Regions pooled as sums of pixels: what ``ROIAlign`` computes on a CPU, in a fifth of the time.

``ROIAlign`` averages bilinear samples over each bin of a region. In either direction that is a sum
over the few pixels that the bin touches, with weights that are the same for every channel. So a
bin is a weighted sum of whole pixels, for which torch has a kernel (``embedding_bag``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Integers = NDArray[np.int64]
Indices = NDArray[np.int32]
Floats = NDArray[np.float32]
_AT_ONCE = 1 << 20  # pixels that one call sums: 12 MB of indices and weights


def pool_by_sums(module: Any) -> bool:
    """Have a model on the CPU pool its regions so, in float32 and to within rounding.

    Args:
        module: A Detectron2 model in eval mode.

    Returns:
        Whether all of its poolers do; one of another kind than ``ROIAlign`` stays as it is.
    """
    from detectron2.layers import ROIAlign
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads

    heads: Any = getattr(module, "roi_heads", None)
    if type(heads) not in (CascadeROIHeads, Res5ROIHeads, StandardROIHeads):
        return False
    poolers = [each for each in heads.modules() if isinstance(each, ROIPooler)]
    if any(type(pooler) is not ROIPooler for pooler in poolers):
        return False
    if any(type(each) is not ROIAlign for pooler in poolers for each in pooler.level_poolers):
        return False
    for pooler in poolers:
        pooler.forward = MethodType(_pooled, pooler)
    whole = heads.forward

    def from_pixels(images: Any, features: dict[str, Tensor], *rest: Any) -> Any:
        turned = {name: by_pixel(features[name]) for name in heads.in_features}
        return whole(images, features | turned, *rest)

    heads.forward = from_pixels
    return True


def by_pixel(maps: Tensor) -> Tensor:
    """Return maps ``(N, C, H, W)`` with the channels of a pixel side by side in memory."""
    import cv2
    import torch

    if maps.is_contiguous(memory_format=torch.channels_last):
        return maps
    # torch takes three times as long to turn a matrix
    turned = [torch.from_numpy(cv2.transpose(planes.flatten(1).numpy())) for planes in maps]
    pixels = turned[0] if len(turned) == 1 else torch.cat(turned)
    n, channels, height, width = maps.shape
    return pixels.view(n, height, width, channels).permute(0, 3, 1, 2)


def _pooled(pooler: Any, maps: list[Tensor], boxes: list[Any]) -> Tensor:
    """Do what ``ROIPooler.forward`` does."""
    import torch
    from detectron2.modeling.poolers import assign_boxes_to_levels, convert_boxes_to_pooler_format

    regions = convert_boxes_to_pooler_format(boxes)
    sizes = pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
    levels = assign_boxes_to_levels(boxes, *sizes).clamp_(0, len(maps) - 1)
    tables = [by_pixel(each).permute(0, 2, 3, 1).flatten(0, 2) for each in maps]
    pooled = torch.empty(len(regions), maps[0].shape[1], *pooler.output_size)
    shapes = np.array([each.shape[2:] for each in maps])
    groups = _alike(regions.numpy(), levels.numpy(), shapes, pooler) if len(regions) else ()
    for some in groups:
        sums = _sums(tables[some.level], some.pixels, some.weights)
        of_bins = sums.view(len(some.rows), *pooler.output_size, -1)
        pooled[torch.from_numpy(some.rows)] = of_bins.permute(0, 3, 1, 2)
    return pooled


def _sums(table: Tensor, rows: Indices, weights: Floats) -> Tensor:
    """Do what ``torch.nn.functional.embedding_bag`` does, in a third of the calls.

    Args:
        table: float32 ``(rows, C)``.
        rows: Of each sum: int32 ``(sums, n)``.
        weights: Of each of those: float32 ``(sums, n)``.

    Returns:
        float32 ``(sums, C)``.
    """
    import torch

    number, n = rows.shape
    flat, shares = torch.from_numpy(rows.ravel()), torch.from_numpy(weights.ravel())
    starts = torch.from_numpy(np.arange(0, number * n, n, dtype=np.int32))
    return torch.embedding_bag(table, flat, starts, mode=0, per_sample_weights=shares)[0]  # sums


@dataclass(frozen=True, slots=True)
class _Regions:
    """Some regions of one level, whose bins are sums of about as many pixels.

    Attributes:
        rows: Which: int64 ``(R,)``.
        level: The number of their map.
        pixels: Of each bin, as rows of the map's table: int32 ``(R * bins, n)``.
        weights: Of each of those: float32 ``(R * bins, n)``.
    """

    rows: Integers
    level: int
    pixels: Indices
    weights: Floats


# in NumPy, whose calls on a few thousand numbers take a third of the time of torch's and do not
# let go of Python's lock, which the thread of another forward would take in between
def _alike(regions: Floats, levels: Integers, shapes: Integers, pooler: Any) -> Iterator[_Regions]:
    """Yield all regions, ``(image, x1, y1, x2, y2)`` in the model's pixels, in such groups.

    Args:
        regions: float32 ``(R, 5)``.
        levels: The number of each one's map: int64 ``(R,)``.
        shapes: Of the maps: ``(levels, 2)``, height before width.
        pooler: Detectron2's.
    """
    align, (down, across) = pooler.level_poolers[0], pooler.output_size
    scales = np.array([each.spatial_scale for each in pooler.level_poolers], np.float32)
    # a box that is not finite is dropped later, but must not become an index until then
    finite = np.nan_to_num(regions[:, 1:], nan=0, posinf=0, neginf=0)
    corners = finite * scales[levels, None] - np.float32(0.5 if align.aligned else 0)
    extents = corners[:, 2:] - corners[:, :2]
    if not align.aligned:
        extents = np.maximum(extents, 1)
    ratio = align.sampling_ratio
    x = _Axis.of(corners[:, 0], extents[:, 0], across, shapes[levels, 1], ratio)
    y = _Axis.of(corners[:, 1], extents[:, 1], down, shapes[levels, 0], ratio)
    base = 1 + max(x.weights.shape[2], y.weights.shape[2])
    kinds = (levels * base + y.n) * base + x.n
    order = np.argsort(kinds, kind="stable")
    for alike in np.split(order, np.flatnonzero(np.diff(kinds[order])) + 1):
        level, n_y, n_x = (int(each[alike[0]]) for each in (levels, y.n, x.n))
        height, width = shapes[level].tolist()
        some = max(1, _AT_ONCE // (down * across * n_y * n_x))
        for first in range(0, len(alike), some):
            rows = alike[first : first + some]
            lines, of_lines = y.taps(rows, n_y, height)
            places, of_places = x.taps(rows, n_x, width)
            lines = (lines + regions[rows, 0].astype(np.int32)[:, None, None] * height) * width
            pixels = lines[:, :, None, :, None] + places[:, None, :, None, :]
            weights = of_lines[:, :, None, :, None] * of_places[:, None, :, None, :]
            shape = (-1, n_y * n_x)
            yield _Regions(rows, level, pixels.reshape(shape), weights.reshape(shape))


@dataclass(frozen=True, slots=True)
class _Axis:
    """The pixels that the bins of each region touch, in one direction.

    Attributes:
        first: Coordinate of the first: int32 ``(R, bins, 1)``.
        n: How many from there on, or a few more: int64 ``(R,)``.
        weights: Of each of them: float32 ``(R, bins, largest n)``.
    """

    first: Indices
    n: Integers
    weights: Floats

    @classmethod
    def of(cls, start: Floats, extent: Floats, bins: int, end: Integers, ratio: int) -> _Axis:
        """Spread the samples of torchvision's ``roi_align`` over pixels.

        Args:
            start: Of each region, in pixels of its map: float32 ``(R,)``.
            extent: Of each region: float32 ``(R,)``.
            bins: Of a region.
            end: Size of the region's map: int64 ``(R,)``.
            ratio: Samples a bin; 0 for one a pixel.
        """
        width = extent / np.float32(bins)
        samples = np.full_like(width, ratio) if ratio > 0 else np.ceil(width)
        step = width / np.maximum(samples, 1)
        number = np.arange(max(1, int(samples.max())), dtype=np.float32)
        within = np.minimum(number, np.maximum(samples - 1, 0)[:, None])[:, None]
        starts = start[:, None] + np.arange(bins, dtype=np.float32) * width[:, None]
        at = starts[:, :, None] + (within + np.float32(0.5)) * step[:, None, None]
        last = (end.astype(np.float32) - 1)[:, None, None]
        counts = (number < samples[:, None])[:, None] & (at >= -1) & (at <= last + 1)
        at = np.clip(at, 0, last)
        low = np.floor(at)
        share = counts * (1 / np.maximum(samples, 1))[:, None, None]
        of_next = (at - low) * share
        first = low[:, :, :1].astype(np.int32)
        nth = low.astype(np.int64) - first
        n = _rounded(nth[:, :, -1].max(axis=1) + 2)
        most = int(n.max())
        # each bin's row of weights begins at a multiple of their number
        places = nth + np.arange(len(start) * bins).reshape(-1, bins, 1) * most
        weights = np.bincount(places.ravel(), (share - of_next).ravel(), len(start) * bins * most)
        weights[1:] += np.bincount(places.ravel(), of_next.ravel(), len(weights) - 1)
        return cls(first, n, weights.astype(np.float32).reshape(-1, bins, most))

    def taps(self, rows: Integers, n: int, end: int) -> tuple[Indices, Floats]:
        """Return the coordinates, below ``end``, and the weights of some regions."""
        number = np.arange(n, dtype=np.int32)
        return np.minimum(self.first[rows] + number, end - 1), self.weights[rows, :, :n]


def _rounded(n: Integers) -> Integers:
    """Return even numbers up to 8, powers of two above, so that there are few of them."""
    return np.where(n <= 8, n + n % 2, 2 ** np.ceil(np.log2(n)).astype(np.int64))
