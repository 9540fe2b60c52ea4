"""A stage that drops instances with low scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.protocols import Pushdown
from pipeline.records import Result
from pipeline.validation import check_number


@dataclass(frozen=True)
class MinScore:
    """Keeps the instances whose score is at least ``threshold``; maps do not change.

    Attributes:
        threshold: In [0, 1]. Compared as float32, like scores, so 0.7 keeps a score of 0.7.

    Raises:
        ConfigError: The threshold is not in [0, 1].
    """

    needs_pixels: ClassVar[bool] = False

    threshold: float

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0, 1)

    def pushdown(self) -> Pushdown:
        """Let the model skip instances below the threshold."""
        return Pushdown(min_score=self.threshold)

    def __call__(self, result: Result) -> Result:
        """Return the result without the instances below the threshold."""
        return result.at_least(self.threshold)
