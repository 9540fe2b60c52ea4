"""Semantic and panoptic label maps as PNG, beside the ``predictions.jsonl`` that names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding import PANOPTIC, SEM_SEG, map_name
from pipeline.errors import SinkError
from pipeline.records import Frame, Result
from pipeline.sinks.frame_files import FrameFiles
from pipeline.sinks.png import encode_png, panoptic_colors


class LabelMaps(FrameFiles):
    """Writes the label maps of every frame that has some; part of every run.

    ``sem_seg/`` has gray levels that are class ids (8 or 16 bits), ``panoptic/`` COCO's colors
    (segment id = R + 256 G + 65536 B). Each file is written atomically as its frame arrives.

    Args:
        directory: The run directory.
    """

    suffix = ".png"
    needs_pixels = False

    def __init__(self, directory: str | Path) -> None:
        super().__init__(Path(directory), SEM_SEG, PANOPTIC)

    def contents(self, result: Result) -> dict[str, memoryview]:
        """Return a frame's maps by their directory.

        Raises:
            SinkError: A class id does not fit into a PNG (0..65535).
        """
        return encode_maps(result)

    def name(self, folder: str, asset_id: str, suffix: str, frame: int | None = None) -> str:
        """Return the name of a map, as ``predictions.jsonl`` has it."""
        return map_name(folder, asset_id, frame, suffix)


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
        maps[PANOPTIC] = panoptic_colors(predictions.panoptic_seg)
    return {folder: encode_png(pixels) for folder, pixels in maps.items()}


def _gray(frame: Frame, sem_seg: NDArray[np.int32], n_classes: int) -> NDArray[Any]:
    low, high = int(sem_seg.min()), max(int(sem_seg.max()), n_classes - 1)
    if low < 0 or high > 0xFFFF:
        raise SinkError(
            f"'{frame.asset_id}': sem_seg has class ids {low}..{high}, a PNG holds 0..65535",
            asset_id=frame.asset_id,
        )
    return sem_seg.astype(np.uint8 if high <= 0xFF else np.uint16)
