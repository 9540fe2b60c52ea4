"""Semantic and panoptic label maps as PNG, beside the ``predictions.jsonl`` that names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding import PANOPTIC, SEM_SEG, map_name
from pipeline.errors import SinkError
from pipeline.protocols import Asset
from pipeline.records import Frame, Result
from pipeline.system.output_folder import OutputFolder


class LabelMaps:
    """Writes the label maps of every frame that has some; part of every run.

    ``sem_seg/`` has gray levels that are class ids (8 or 16 bits), ``panoptic/`` COCO's colors
    (segment id = R + 256 G + 65536 B). Each file is written atomically as its frame arrives.

    Args:
        directory: The run directory.
    """

    outputs = f"{SEM_SEG}/", f"{PANOPTIC}/"
    needs_pixels = False

    def __init__(self, directory: str | Path) -> None:
        self._folder = OutputFolder(Path(directory))
        self._numbered = False

    def __enter__(self) -> LabelMaps:
        """Do nothing: files are opened as frames arrive."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: no file stays open."""

    def begin(self, asset: Asset) -> None:
        """Number the maps by frame unless the asset is a still."""
        self._numbered = not asset.is_still

    def write(self, result: Result) -> None:
        """Write a frame's maps.

        Raises:
            SinkError: A class id does not fit into a PNG (0..65535).
        """
        frame = result.frame
        number = frame.index if self._numbered else None
        for folder, png in encode_maps(result).items():
            self._folder.write(map_name(folder, frame.asset_id, number), png)

    def flush(self, asset: Asset) -> None:
        """Do nothing: the maps have their final names since ``write``."""

    def sync(self) -> None:
        """Make the names of the maps durable.

        Raises:
            OSError: The disk fails.
            OutputError: A map was moved or deleted during the run.
        """
        self._folder.sync()

    def discard(self, asset: Asset) -> None:
        """Remove the asset's maps, including those of an earlier run."""
        suffix = ".png" if asset.is_still else ""
        for folder in (SEM_SEG, PANOPTIC):
            self._folder.remove(map_name(folder, asset.id, suffix=suffix))


def encode_maps(result: Result) -> dict[str, memoryview]:
    """Return a frame's label maps as PNG: ``SEM_SEG``, ``PANOPTIC``, both or none.

    Raises:
        SinkError: A class id does not fit into a PNG (0..65535).
    """
    frame, predictions = result.frame, result.predictions
    maps: dict[str, NDArray[Any]] = {}
    if predictions.sem_seg is not None:
        maps[SEM_SEG] = _gray(frame, predictions.sem_seg, len(predictions.stuff_names))
    if predictions.panoptic_seg is not None:
        maps[PANOPTIC] = _colors(predictions.panoptic_seg)
    return {folder: _png(frame, folder, pixels) for folder, pixels in maps.items()}


def _png(frame: Frame, folder: str, pixels: NDArray[Any]) -> memoryview:
    import cv2  # takes 0.1 s, which most commands do not need

    # level 1: label maps have few edges, and higher levels cost more than they save
    done, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise SinkError(
            f"'{frame.asset_id}': {folder} cannot be encoded as PNG", asset_id=frame.asset_id
        )
    return memoryview(png.data)


def _gray(frame: Frame, sem_seg: NDArray[np.int32], n_classes: int) -> NDArray[Any]:
    low, high = int(sem_seg.min()), max(int(sem_seg.max()), n_classes - 1)
    if low < 0 or high > 0xFFFF:
        raise SinkError(
            f"'{frame.asset_id}': sem_seg has class ids {low}..{high}, a PNG holds 0..65535",
            asset_id=frame.asset_id,
        )
    return sem_seg.astype(np.uint8 if high <= 0xFF else np.uint16)


def _colors(panoptic_seg: NDArray[np.int32]) -> NDArray[np.uint8]:
    # OpenCV writes BGR: the least significant byte, red, comes last
    shifted = [(panoptic_seg >> bits).astype(np.uint8) for bits in (16, 8, 0)]
    return np.stack(shifted, axis=2)
