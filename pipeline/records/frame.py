"""A decoded image, alone and with its predictions."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipeline.records.predictions import Predictions


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded image of an asset.

    Attributes:
        image: uint8 ``(H, W, 3)``, BGR.
        asset_id: Id of the asset that contains the frame.
        index: 0-based position within the asset.
        pts: Presentation timestamp in units of ``time_base``; ``None`` for a still image.
        time_base: Seconds per unit of ``pts``.
        time_s: Seconds from the start of a video, ``pts * time_base``; ``None`` for a still image.

    Raises:
        ValueError: The image is not a non-empty uint8 ``(H, W, 3)`` array, or only one of ``pts``
            and ``time_base`` is given.
    """

    image: NDArray[np.uint8]
    asset_id: str
    index: int = 0
    pts: int | None = None
    time_base: Fraction | None = None
    time_s: float | None = None

    def __post_init__(self) -> None:
        if (self.pts is None) != (self.time_base is None):
            raise ValueError("Frame: pts and time_base belong together; give both or neither")
        if self.pts is not None and self.time_base is not None:
            object.__setattr__(self, "time_s", float(self.pts * self.time_base))
        image = self.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"Frame.image: expected non-empty uint8 (H, W, 3), got {image.dtype} {image.shape}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A frame and its predictions: the argument of stages and sinks."""

    frame: Frame
    predictions: Predictions

    def replace(self, predictions: Predictions) -> Result:
        """Return the same frame with other predictions."""
        return Result(self.frame, predictions)

    def at_least(self, min_score: float | NDArray[np.float32]) -> Result:
        """Return the result without instances of a lower score, compared as float32.

        Args:
            min_score: One for all, or float32 ``(N,)``.
        """
        keep = self.predictions.scores >= np.float32(min_score)
        return self if keep.all() else self.replace(self.predictions[keep])
