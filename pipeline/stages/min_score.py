"""A stage that drops instances with low scores."""

import numpy as np

from pipeline.protocols import Pushdown
from pipeline.records import Categories, Result
from pipeline.validation import check_known, check_number


class MinScore:
    """Keeps the instances that reach ``threshold``, or that of their class in ``thresholds``.

    Scores are compared as float32, so 0.7 keeps a score of 0.7. Maps do not change.

    Raises:
        ConfigError: A threshold is not in [0, 1].
    """

    needs_pixels = False

    def __init__(self, threshold: float, thresholds: dict[str, float] | None = None) -> None:
        self.threshold = threshold
        self.thresholds = {str(name): least for name, least in (thresholds or {}).items()}
        check_number("threshold", threshold, 0, 1)
        for name, least in self.thresholds.items():
            check_number(f"thresholds.{name}", least, 0, 1)

    def check(self, categories: Categories) -> None:
        """Raise ConfigError for names that are not instance classes of the model."""
        check_known("thresholds", self.thresholds, categories.thing_names)

    def pushdown(self) -> Pushdown:
        """Let the model skip instances below the lowest threshold."""
        lowest = min([self.threshold, *self.thresholds.values()])
        return Pushdown(min_score=lowest, complete=not self.thresholds)

    def __call__(self, result: Result) -> Result:
        """Return the result without the instances below their threshold."""
        least = [self.thresholds.get(n, self.threshold) for n in result.predictions.class_names]
        return result.at_least(np.array(least, np.float32)[result.predictions.classes])
