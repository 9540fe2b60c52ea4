"""Options of a stored model, as in BentoML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.store.disk.plain import OPTIONS, check_options


@dataclass(frozen=True)
class ModelOptions:
    """How a stored model is run.

    Attributes:
        device_id: The runnable's device: ``auto`` (cuda:0 if there is one, else cpu), ``cpu``,
            ``cuda`` or ``cuda:N``.
        partial_kwargs: Keyword arguments for the model's methods, by method. Arguments of a call
            override them.
    """

    device_id: str = "auto"
    partial_kwargs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self.to_dict())

    def with_options(self, **options: Any) -> ModelOptions:
        """Return a copy with other values.

        Raises:
            ConfigError: There is no such option, or a value is not valid.
        """
        check_options(options)
        return dataclasses.replace(self, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name."""
        return {name: getattr(self, name) for name in OPTIONS}
