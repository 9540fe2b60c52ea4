"""A stage that keeps the instances of some classes."""

import numpy as np

from pipeline.errors import ConfigError, did_you_mean
from pipeline.protocols import Pushdown
from pipeline.records import Categories, Result
from pipeline.validation import check


class KeepClasses:
    """Keeps the instances of the classes ``names``; maps do not change.

    Raises:
        ConfigError: ``names`` is not a list, or is empty.
    """

    needs_pixels = False

    def __init__(self, names: list[str | int]) -> None:
        valid = bool(names) and not isinstance(names, str)
        check("names", names, valid, "class names such as [person]")
        self.names = tuple(map(str, names))  # YAML reads class names such as 0 and 1 as numbers

    def check(self, categories: Categories) -> None:
        """Raise ConfigError for names that are not instance classes of the model."""
        things, stuff = categories.thing_names, categories.stuff_names
        if unknown := [name for name in self.names if name not in things]:
            hints = {n: " (it is stuff, which has no instances)" for n in unknown if n in stuff}
            texts = (f"'{n}'{hints.get(n) or did_you_mean(n, things)}" for n in unknown)
            raise ConfigError(*(f"names: the model has no class {text}" for text in texts))

    def pushdown(self) -> Pushdown:
        """Let the model skip other classes."""
        return Pushdown(classes=list(self.names))

    def __call__(self, result: Result) -> Result:
        """Return the result without instances of other classes."""
        found = result.predictions
        keep = np.array([name in self.names for name in found.class_names], bool)[found.classes]
        return result if keep.all() else result.replace(found[keep])
