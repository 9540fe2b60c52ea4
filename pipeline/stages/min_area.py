"""Drop what is too small to matter."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.records import Result


@dataclass(frozen=True)
class MinArea:
    """Keeps the instances that cover at least ``area_px`` pixels; maps stay as they are.

    Attributes:
        area_px: Pixels of the instance's mask, or of its box where the model gives no masks.

    Raises:
        ConfigError: The area is negative.
    """

    area_px: float

    def __post_init__(self) -> None:
        if not self.area_px >= 0:  # refuses NaN too
            raise ConfigError(f"area_px: expected at least 0 pixels, got {self.area_px}")

    def __call__(self, result: Result) -> Result:
        """Return the result without the instances below the area."""
        keep = result.predictions.area_px >= self.area_px
        return result if keep.all() else result.replace(result.predictions[keep])
