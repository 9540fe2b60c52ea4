"""Options for importing a model that was not saved by d2run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.store.disk.plain import plain_labels, plain_metadata


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """The options of an imported model.

    Attributes:
        name: The model's name in the store; by default its current name.
        class_names: Names by class id, or a file of names.
        labels: Labels, in addition to its own.
        metadata: Plain values, in addition to its own.
        ema: Use the averaged weights of a training checkpoint.
        trust: Load the pickle of custom objects, which can run any code.
    """

    name: str | None = None
    class_names: Sequence[str] | Mapping[int, str] | str | None = None
    labels: Mapping[str, str] | None = None
    metadata: Mapping[str, Any] | None = None
    ema: bool = False
    trust: bool = False

    def __post_init__(self) -> None:
        """Check the types that would fail only after the weights are read."""
        plain_labels(self.labels)
        plain_metadata(self.metadata)
