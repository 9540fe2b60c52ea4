"""Keep only some classes."""

from __future__ import annotations

import numpy as np

from pipeline.errors import ConfigError, did_you_mean
from pipeline.protocols import Pushdown
from pipeline.records import Categories, Result


class KeepClasses:
    """Keeps the instances of the classes ``names``; semantic and panoptic maps stay as they are.

    Raises:
        ConfigError: ``names`` is empty or no list.
    """

    def __init__(self, names: list[str | int]) -> None:
        if isinstance(names, str) or not names:
            raise ConfigError(f"names: expected class names such as [person], got {names!r}")
        self.names = tuple(map(str, names))  # YAML reads [0, 1], the classes of digits, as numbers

    def check(self, categories: Categories) -> None:
        """Raise ConfigError for names that are no instance class of the model."""
        things, stuff = categories.thing_names, categories.stuff_names
        if unknown := [name for name in self.names if name not in things]:
            why = {n: " (it is stuff, which has no instances)" for n in unknown if n in stuff}
            hints = (f"'{n}'{why.get(n) or did_you_mean(n, things)}" for n in unknown)
            raise ConfigError(*(f"names: the model finds no instances of {h}" for h in hints))

    def pushdown(self) -> Pushdown:
        """Let the model skip other classes."""
        return Pushdown(classes=list(self.names))

    def __call__(self, result: Result) -> Result:
        """Return the result without instances of other classes."""
        found = result.predictions
        keep = np.array([name in self.names for name in found.class_names], bool)[found.classes]
        return result if keep.all() else result.replace(found[keep])
