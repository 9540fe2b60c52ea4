"""A stage that drops small instances."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.records import Result
from pipeline.validation import check_number


@dataclass(frozen=True)
class MinArea:
    """Keeps the instances that cover at least ``area_px`` pixels; maps do not change.

    Attributes:
        area_px: Pixels of the instance's mask, or of its box if there are no masks.

    Raises:
        ConfigError: ``area_px`` is not a number of at least 0.
    """

    area_px: float
    needs_pixels = False

    def __post_init__(self) -> None:
        check_number("area_px", self.area_px, 0)

    def __call__(self, result: Result) -> Result:
        """Return the result without the instances below the area."""
        keep = result.predictions.area_px >= self.area_px
        return result if keep.all() else result.replace(result.predictions[keep])
