"""The run-length encodings of Label Studio and CVAT, which are row by row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import InstanceMasks, crop_edges

_SIZES = (3, 4, 8, 16)  # bits of a run's length, as Label Studio's encoder chooses them
_MAX_RUN = 1 << _SIZES[-1]


def label_studio_rle(mask: InstanceMasks) -> list[int]:
    """Return Label Studio's encoding of a mask: bytes of an RGBA image, 0 and 255.

    A header (number of values in 32 bits, their width, the four sizes), then per run: 1, the index
    of a size in 2 bits, the length minus one in that many bits, the value in 8 bits. Equal to
    ``label_studio_sdk.converter.brush.encode_rle`` of the frame, which takes seconds for a mask.

    Args:
        mask: One mask.
    """
    (height, width), (crop, (x, y)) = mask.size, mask.crop(0)
    edges = crop_edges(crop.T, y, x, width)  # of the transposed frame: row by row
    ends = np.concatenate([edges, [height * width]])
    lengths = 4 * np.diff(ends, prepend=0)
    values = np.where(np.arange(len(lengths)) % 2, 255, 0)
    lengths, values = lengths[lengths > 0], values[lengths > 0]
    chunks = -(-lengths // _MAX_RUN)  # longer runs are split; the remainder comes last
    last = np.cumsum(chunks) - 1
    split = np.full(int(chunks.sum()), _MAX_RUN)
    split[last] = lengths - (chunks - 1) * _MAX_RUN
    index = np.searchsorted([1 << size for size in _SIZES], split)
    sizes = np.array(_SIZES)[index]
    codes = ((4 + index) << sizes | split - 1) << 8 | np.repeat(values, chunks)
    header = [(4 * height * width, 32), (8 - 1, 5), *((size - 1, 4) for size in _SIZES)]
    bits = _bits(
        np.concatenate([[value for value, _ in header], codes]),
        np.concatenate([[n for _, n in header], sizes + 11]),
    )
    # their encoder adds a whole byte where none is missing
    padded = np.concatenate([bits, np.zeros(8 - len(bits) % 8, np.uint8)])
    rle: list[int] = np.packbits(padded).tolist()
    return rle


def cvat_rle(crop: NDArray[np.bool_]) -> list[int]:
    """Return CVAT's encoding of a crop: lengths of runs, the first of background, maybe 0."""
    flips = np.flatnonzero(np.diff(crop.ravel(), prepend=False))
    lengths: list[int] = np.diff(np.concatenate([[0], flips, [crop.size]])).tolist()
    return lengths


def _bits(values: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the bits of values of different widths, one after the other."""
    ends = np.cumsum(widths)
    left = np.repeat(ends, widths) - np.arange(ends[-1]) - 1
    return (np.repeat(values, widths) >> left & 1).astype(np.uint8)
