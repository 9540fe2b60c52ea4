"""Keep only the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError
from pipeline.protocols import Pushdown
from pipeline.records import Result


@dataclass(frozen=True)
class TopK:
    """Keeps the ``k`` instances with the highest scores, in their order; maps stay as they are.

    Attributes:
        k: How many to keep of each frame. Of equal scores the earlier instance wins.

    Raises:
        ConfigError: ``k`` is not a whole number of at least 0.
    """

    k: int

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 0:
            raise ConfigError(f"k: expected a whole number of at least 0, got {self.k}")

    def pushdown(self) -> Pushdown:
        """Let the model skip all but the ``k`` best instances."""
        return Pushdown(max_instances=self.k)

    def __call__(self, result: Result) -> Result:
        """Return the result with at max_instances ``k`` instances."""
        if len(result.predictions) <= self.k:
            return result
        best = np.argsort(-result.predictions.scores, kind="stable")[: self.k]
        return result.replace(result.predictions[np.sort(best)])
