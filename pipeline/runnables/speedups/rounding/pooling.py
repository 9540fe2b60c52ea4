"""Pools regions as sums of pixels: five times as fast as ``ROIAlign`` on a CPU.

``ROIAlign`` averages bilinear samples over each bin of a region. In either direction, that is a
sum over the few pixels that the bin touches, with weights that are the same for all channels. So a
bin is a weighted sum of pixels, for which torch has a kernel (``embedding_bag``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.runnables.speedups.patching import (
    Call,
    replace_method,
    replaced_methods,
    wrap_method,
)

if TYPE_CHECKING:
    from torch import Tensor

Integers = NDArray[np.int64]
Indices = NDArray[np.int32]
Floats = NDArray[np.float32]
_MAX_PIXELS = 1 << 20  # that one call adds up: 12 MB of indices and weights


def pool_by_sums(module: Any) -> bool:
    """Pool a model's regions as sums of pixels, in float32; equal within rounding.

    Args:
        module: A Detectron2 model on the CPU, in eval mode.

    Returns:
        Whether all its poolers are ``ROIAlign``. If not, the model does not change.
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
        replace_method(pooler, "forward", partial(_pool, pooler))

    def from_pixels(forward: Call) -> Call:
        def run(images: Any, features: dict[str, Tensor], *rest: Any) -> Any:
            by_pixel = {name: to_channels_last(features[name]) for name in heads.in_features}
            return forward(images, features | by_pixel, *rest)

        return run

    wrap_method(heads, "forward", from_pixels)
    return True


def pools_by_sums(module: Any) -> bool:
    """Return whether ``pool_by_sums`` has changed a model."""
    from detectron2.modeling.poolers import ROIPooler

    poolers = [each for each in module.modules() if isinstance(each, ROIPooler)]
    return any("forward" in replaced_methods(each) for each in poolers)


def to_channels_last(maps: Tensor) -> Tensor:
    """Return maps ``(N, C, H, W)`` with the channels of a pixel next to each other in memory."""
    import cv2
    import torch

    if maps.is_contiguous(memory_format=torch.channels_last):
        return maps
    # torch takes three times as long to transpose a matrix
    transposed = [torch.from_numpy(cv2.transpose(planes.flatten(1).numpy())) for planes in maps]
    pixels = transposed[0] if len(transposed) == 1 else torch.cat(transposed)
    n, channels, height, width = maps.shape
    return pixels.view(n, height, width, channels).permute(0, 3, 1, 2)


def _pool(pooler: Any, maps: list[Tensor], boxes: list[Any]) -> Tensor:
    """Compute what ``ROIPooler.forward`` does."""
    import torch
    from detectron2.modeling.poolers import assign_boxes_to_levels, convert_boxes_to_pooler_format

    regions = convert_boxes_to_pooler_format(boxes)
    sizes = pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
    levels = assign_boxes_to_levels(boxes, *sizes).clamp_(0, len(maps) - 1)
    tables = [to_channels_last(each).permute(0, 2, 3, 1).flatten(0, 2) for each in maps]
    pooled = torch.empty(len(regions), maps[0].shape[1], *pooler.output_size)
    shapes = np.array([each.shape[2:] for each in maps])
    groups = _grouped(regions.numpy(), levels.numpy(), shapes, pooler) if len(regions) else ()
    for group in groups:
        sums = _sums(tables[group.level], group.pixels, group.weights)
        bins = sums.view(len(group.rows), *pooler.output_size, -1)
        pooled[torch.from_numpy(group.rows)] = bins.permute(0, 3, 1, 2)
    return pooled


def _sums(table: Tensor, rows: Indices, weights: Floats) -> Tensor:
    """Compute what ``torch.nn.functional.embedding_bag`` does, with a third of the calls.

    Args:
        table: float32 ``(rows, C)``.
        rows: Rows that each sum adds up: int32 ``(sums, n)``.
        weights: Weight of each of these rows: float32 ``(sums, n)``.

    Returns:
        float32 ``(sums, C)``.
    """
    import torch

    number, n = rows.shape
    flat, factors = torch.from_numpy(rows.ravel()), torch.from_numpy(weights.ravel())
    starts = torch.from_numpy(np.arange(0, number * n, n, dtype=np.int32))
    as_sums = 0
    return torch.embedding_bag(table, flat, starts, mode=as_sums, per_sample_weights=factors)[0]


@dataclass(frozen=True, slots=True)
class _RegionGroup:
    """Regions of one level whose bins are sums of about equally many pixels.

    Attributes:
        rows: Indices of the regions: int64 ``(R,)``.
        level: Index of the map of the regions.
        pixels: Pixels of each bin, as rows of the map's table: int32 ``(R * bins, n)``.
        weights: Weight of each of these pixels: float32 ``(R * bins, n)``.
    """

    rows: Integers
    level: int
    pixels: Indices
    weights: Floats


# In NumPy: its calls on a few thousand numbers take a third of the time of torch's, and they do not
# release Python's lock, which another forward's thread would acquire in between.
def _grouped(
    regions: Floats, levels: Integers, shapes: Integers, pooler: Any
) -> Iterator[_RegionGroup]:
    """Yield all regions in groups.

    Args:
        regions: ``(image, x1, y1, x2, y2)`` in the model's pixels: float32 ``(R, 5)``.
        levels: Index of each region's map: int64 ``(R,)``.
        shapes: Height and width of each map: ``(levels, 2)``.
        pooler: Detectron2's ``ROIPooler``.
    """
    align, (down, across) = pooler.level_poolers[0], pooler.output_size
    scales = np.array([each.spatial_scale for each in pooler.level_poolers], np.float32)
    # boxes that are not finite are dropped later, but would be invalid indices here
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
        some = max(1, _MAX_PIXELS // (down * across * n_y * n_x))
        for first in range(0, len(alike), some):
            rows = alike[first : first + some]
            lines, of_lines = y.taps(rows, n_y, height)
            places, of_places = x.taps(rows, n_x, width)
            lines = (lines + regions[rows, 0].astype(np.int32)[:, None, None] * height) * width
            pixels = lines[:, :, None, :, None] + places[:, None, :, None, :]
            weights = of_lines[:, :, None, :, None] * of_places[:, None, :, None, :]
            shape = (-1, n_y * n_x)
            yield _RegionGroup(rows, level, pixels.reshape(shape), weights.reshape(shape))


@dataclass(frozen=True, slots=True)
class _Axis:
    """The pixels that the bins of each region touch, in one direction.

    Attributes:
        first: Coordinate of the first pixel: int32 ``(R, bins, 1)``.
        n: Number of pixels from there, rounded up: int64 ``(R,)``.
        weights: Weight of each pixel: float32 ``(R, bins, largest n)``.
    """

    first: Indices
    n: Integers
    weights: Floats

    @classmethod
    def of(cls, start: Floats, extent: Floats, bins: int, end: Integers, ratio: int) -> _Axis:
        """Distribute the samples of torchvision's ``roi_align`` over pixels.

        Args:
            start: First coordinate of each region, in pixels of its map: float32 ``(R,)``.
            extent: Size of each region, in pixels of its map: float32 ``(R,)``.
            bins: Number of bins per region.
            end: Size of each region's map in pixels: int64 ``(R,)``.
            ratio: Samples per bin; 0 for one per pixel.
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
        largest = int(n.max())
        # each bin has a row of ``largest`` weights
        places = nth + np.arange(len(start) * bins).reshape(-1, bins, 1) * largest
        weights = np.bincount(
            places.ravel(), (share - of_next).ravel(), len(start) * bins * largest
        )
        weights[1:] += np.bincount(places.ravel(), of_next.ravel(), len(weights) - 1)
        return cls(first, n, weights.astype(np.float32).reshape(-1, bins, largest))

    def taps(self, rows: Integers, n: int, end: int) -> tuple[Indices, Floats]:
        """Return the coordinates, all below ``end``, and the weights of some regions' pixels."""
        number = np.arange(n, dtype=np.int32)
        return np.minimum(self.first[rows] + number, end - 1), self.weights[rows, :, :n]


def _rounded(n: Integers) -> Integers:
    """Round up to even numbers up to 8, to powers of two above, so that there are few groups."""
    return np.where(n <= 8, n + n % 2, 2 ** np.ceil(np.log2(n)).astype(np.int64))
