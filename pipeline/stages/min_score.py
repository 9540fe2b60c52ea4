"""A stage that drops instances with low scores."""

from __future__ import annotations

import numpy as np

from pipeline.errors import ConfigError, did_you_mean
from pipeline.protocols import Pushdown
from pipeline.records import Categories, Result
from pipeline.validation import check_number


class MinScore:
    """Keeps the instances whose score is at least a threshold; maps do not change.

    Args:
        threshold: In [0, 1]. Compared as float32, like scores, so 0.7 keeps a score of 0.7.
        thresholds: The same for some classes, by name; ``threshold`` is for all others.

    Raises:
        ConfigError: A threshold is not in [0, 1].
    """

    needs_pixels = False

    def __init__(self, threshold: float, thresholds: dict[str, float] | None = None) -> None:
        check_number("threshold", threshold, 0, 1)
        self.threshold = threshold
        # YAML reads class names such as 0 and 1 as numbers
        self.thresholds = {str(name): least for name, least in (thresholds or {}).items()}
        for name, least in self.thresholds.items():
            check_number(f"thresholds.{name}", least, 0, 1)

    def check(self, categories: Categories) -> None:
        """Raise ConfigError for names that are not instance classes of the model."""
        names = categories.thing_names
        unknown = [f"'{n}'{did_you_mean(n, names)}" for n in self.thresholds if n not in names]
        if unknown:
            raise ConfigError(*(f"thresholds: the model has no class {text}" for text in unknown))

    def pushdown(self) -> Pushdown:
        """Let the model skip instances below the lowest threshold."""
        lowest = min([self.threshold, *self.thresholds.values()])
        return Pushdown(min_score=lowest, complete=not self.thresholds)

    def __call__(self, result: Result) -> Result:
        """Return the result without the instances below their threshold."""
        if not self.thresholds:
            return result.at_least(self.threshold)
        found = result.predictions
        least = [self.thresholds.get(name, self.threshold) for name in found.class_names]
        keep = found.scores >= np.array(least, np.float32)[found.classes]
        return result if keep.all() else result.replace(found[keep])
