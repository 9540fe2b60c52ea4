"""The options of a stored model, as in BentoML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError
from pipeline.store.disk.plain import plain_value

_OPTIONS = ("device_id", "partial_kwargs")


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
        _check(self.to_dict())

    def with_options(self, **options: Any) -> ModelOptions:
        """Return a copy with other values.

        Raises:
            ConfigError: There is no such option, or a value is not valid.
        """
        _check(options)
        return dataclasses.replace(self, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name."""
        return {name: getattr(self, name) for name in _OPTIONS}


def plain_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of options for ``model.yaml``, without those that have no value.

    Raises:
        ConfigError: There is no such option, or a value is not valid.
    """
    plain: dict[str, Any] = plain_value(dict(options or {}), "options")
    _check(plain)
    return {name: value for name, value in plain.items() if value}


def _check(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name not in _OPTIONS:
            raise ConfigError(
                f"a stored model has no option {name!r}; its options are {', '.join(_OPTIONS)}"
            )
        if name == "device_id" and not isinstance(value, str):
            raise ConfigError(f"{name}: expected auto, cpu, cuda or cuda:N, got {value!r}")
        if name == "partial_kwargs" and not _is_nested(value):
            raise ConfigError(
                f"{name}: expected keyword arguments by method, as in "
                f"{{'inference': {{'do_postprocess': False}}}}, got {value!r:.80}"
            )


def _is_nested(value: Any) -> bool:
    inner = value.values() if isinstance(value, Mapping) else [value]
    return all(isinstance(item, Mapping) for item in inner)
