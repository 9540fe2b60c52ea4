"""Checks of option values, all with the same wording: ``option: expected ..., got ...``.

A message starts with the option's own name; the code that builds the part adds the part's key
(``stage.nms.iou_threshold: expected a number from 0 to 1, got 2``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

from pipeline.errors import ConfigError, did_you_mean


def check(option: str, value: Any, is_valid: bool, expected: str) -> None:
    """Raise ConfigError unless ``is_valid``.

    Args:
        option: The option's name, without the key of its part.
        value: The value.
        is_valid: Whether the value is acceptable.
        expected: A description of valid values.
    """
    if not is_valid:
        raise ConfigError(f"{option}: expected {expected}, got {value!r}")


def check_choice(option: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ConfigError unless the value is one of ``choices``."""
    check(option, value, value in choices, f"{', '.join(choices[:-1])} or {choices[-1]}")


def check_number(option: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise ConfigError unless the value is a finite number from ``low`` to ``high``."""
    valid = is_number(value) and math.isfinite(value) and low <= value <= high
    check(option, value, valid, f"a number{_range(low, high)}")


def check_whole(option: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise ConfigError unless the value is a whole number from ``low`` to ``high``."""
    check(option, value, is_whole(value, low, high), f"a whole number{_range(low, high)}")


def check_flag(option: str, value: Any) -> None:
    """Raise ConfigError unless the value is true or false."""
    check(option, value, isinstance(value, bool), "true or false")


def check_installed(package: str, *, extra: str) -> None:
    """Raise ConfigError unless a package can be imported.

    Args:
        package: Its name, for ``import`` and ``pip`` alike.
        extra: The extra of d2run that installs it.
    """
    if find_spec(package) is None:
        raise ConfigError(f"{package} is not installed. Run: pip install 'd2run[{extra}]'")


def check_known(option: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Raise ConfigError for class names that the model does not have."""
    unknown = [f"'{name}'{did_you_mean(name, known)}" for name in names if name not in known]
    if unknown:
        raise ConfigError(*(f"{option}: the model has no class {text}" for text in unknown))


def is_number(value: Any) -> bool:
    """Return whether a value is a number; booleans are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Return whether a value is a whole number from ``low`` to ``high``."""
    return is_number(value) and isinstance(value, int) and low <= value <= high


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return "" if math.isinf(low) else f" of at least {low:g}"
    return f" from {low:g} to {high:g}" if math.isfinite(low) else f" of at most {high:g}"
