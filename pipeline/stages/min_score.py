"""Drop what the model is not sure of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError
from pipeline.protocols import Pushdown
from pipeline.records import Result


@dataclass(frozen=True)
class MinScore:
    """Keeps the instances whose score is at least ``threshold``; maps stay as they are.

    Attributes:
        threshold: In [0, 1]; compared as float32, as scores are, so 0.7 keeps a score of 0.7.

    Raises:
        ConfigError: The threshold is not in [0, 1].
    """

    threshold: float

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold: expected a number in [0, 1], got {self.threshold}")

    def pushdown(self) -> Pushdown:
        """Let the model skip instances below the threshold."""
        return Pushdown(min_score=self.threshold)

    def __call__(self, result: Result) -> Result:
        """Return the result without the instances below the threshold."""
        keep = result.predictions.scores >= np.float32(self.threshold)
        return result if keep.all() else result.replace(result.predictions[keep])
