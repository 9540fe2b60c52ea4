"""A stage that keeps the instances with the highest scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.protocols import Pushdown
from pipeline.records import Result
from pipeline.validation import check_whole


@dataclass(frozen=True)
class TopK:
    """Keeps the ``k`` instances with the highest scores, in their order.

    Attributes:
        k: Number of instances to keep per frame. Of equal scores, the earlier instance is kept.

    Raises:
        ConfigError: ``k`` is not a whole number of at least 0.
    """

    k: int
    needs_pixels = False

    def __post_init__(self) -> None:
        check_whole("k", self.k, 0)

    def pushdown(self) -> Pushdown:
        """Let the model skip all but the ``k`` best instances."""
        return Pushdown(max_instances=self.k)

    def __call__(self, result: Result) -> Result:
        """Return the result with at most ``k`` instances."""
        if len(result.predictions) <= self.k:
            return result
        best = np.argsort(-result.predictions.scores, kind="stable")[: self.k]
        return result.replace(result.predictions[np.sort(best)])
