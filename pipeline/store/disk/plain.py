"""What a user says about a model, copied and made plain: labels, metadata, signatures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError

_MAX_BITS = 200  # of a number; 64 digits are read back
DEFAULT_SIGNATURES = {"__call__": {"batchable": False}}
_SIGNATURE = {"batchable", "batch_dim", "input_spec", "output_spec"}


def plain_labels(labels: Mapping[str, Any] | None) -> dict[str, str]:
    """Return a copy of labels, numbers as text.

    Raises:
        ConfigError: A key or a value is neither text nor a number.
    """
    plain = {}
    for key, value in (labels or {}).items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float)):
            raise ConfigError(f"label {key!r}: {value!r} must be a text, as in team: vision")
        plain[key] = str(value).lower() if isinstance(value, bool) else str(value)
    return plain


def plain_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of metadata as JSON has it: NumPy's values as numbers and lists.

    Raises:
        ConfigError: Something else is in it; says where.
    """
    try:
        copy: dict[str, Any] = plain_value(dict(metadata or {}), "metadata")
    except RecursionError:
        raise ConfigError("metadata is nested too deeply, or within itself") from None
    return copy


def plain_value(value: Any, where: str) -> Any:
    """Return a copy in mappings, lists, texts, numbers, truth values and ``None``.

    Raises:
        ConfigError: Something else is in it; says where.
    """
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # NumPy's and torch's
        value = value.tolist()
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int) and value.bit_length() <= _MAX_BITS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [plain_value(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain_value(item, f"{where}.{key}") for key, item in value.items()}
    raise ConfigError(
        f"{where} holds {value!r:.80}, which JSON does not have; give texts, finite numbers, true, "
        "false, null, lists and mappings with text keys, or put it into custom_objects"
    )


def plain_signatures(signatures: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return a copy of signatures: what each callable method takes, as BentoML describes it.

    Raises:
        ConfigError: One is none.
    """
    plain: dict[str, dict[str, Any]] = {}
    for name, given in (DEFAULT_SIGNATURES if signatures is None else signatures).items():
        options = given if isinstance(given, Mapping) else _attributes(given)
        if not str(name).isidentifier() or options is None or set(options) - _SIGNATURE:
            raise ConfigError(
                f"signature {name!r}: {given!r} must be a method's name and a mapping of "
                f"{', '.join(sorted(_SIGNATURE))}, as in {DEFAULT_SIGNATURES}"
            )
        plain[name] = {"batchable": False} | plain_value(dict(options), f"signature {name}")
    if not plain:
        raise ConfigError(f"signatures is empty; leave it out for {DEFAULT_SIGNATURES}")
    return plain


def _attributes(signature: Any) -> dict[str, Any] | None:
    """Read BentoML's own ``ModelSignature``."""
    if not hasattr(signature, "batchable"):
        return None
    found = {key: getattr(signature, key, None) for key in sorted(_SIGNATURE)}
    return {key: value for key, value in found.items() if value is not None}
