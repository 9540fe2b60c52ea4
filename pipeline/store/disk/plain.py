"""Plain copies of a model's labels, metadata, signatures and class names, for ``model.yaml``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.errors import ConfigError
from pipeline.records import Categories

_MAX_BITS = 200  # per number; at most 64 digits can be read back
DEFAULT_SIGNATURES = {"__call__": {"batchable": False}}
_SIGNATURE = {"batchable", "batch_dim", "input_spec", "output_spec"}


def plain_labels(labels: Mapping[str, Any] | None) -> dict[str, str]:
    """Return a copy of labels, with numbers as text.

    Raises:
        ConfigError: A key is not text, or a value is neither text nor a number.
    """
    plain = {}
    for key, value in (labels or {}).items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float)):
            raise ConfigError(f"label {key!r}: expected text, as in team: vision, got {value!r}")
        plain[key] = str(value).lower() if isinstance(value, bool) else str(value)
    return plain


def plain_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of metadata in JSON's types, with NumPy values as numbers and lists.

    Raises:
        ConfigError: A value has another type; says where.
    """
    try:
        copy: dict[str, Any] = plain_value(dict(metadata or {}), "metadata")
    except RecursionError:
        raise ConfigError("metadata is nested too deeply or contains itself; flatten it") from None
    return copy


def plain_value(value: Any, where: str) -> Any:
    """Return a copy made of mappings, lists, text, numbers, booleans and ``None``.

    Raises:
        ConfigError: A value has another type; says where.
    """
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # NumPy and torch
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
        f"{where}: expected text, finite numbers, true, false, null, lists and mappings with text "
        f"keys, got {value!r:.80}. Save other values as custom_objects"
    )


def plain_signatures(signatures: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return a copy of signatures, which describe the callable methods as in BentoML.

    Raises:
        ConfigError: A signature is not valid.
    """
    plain: dict[str, dict[str, Any]] = {}
    for name, given in (DEFAULT_SIGNATURES if signatures is None else signatures).items():
        options = given if isinstance(given, Mapping) else _attributes(given)
        if not str(name).isidentifier() or options is None or set(options) - _SIGNATURE:
            raise ConfigError(
                f"signatures: expected methods and mappings with {', '.join(sorted(_SIGNATURE))}, "
                f"as in {DEFAULT_SIGNATURES}, got {name!r}: {given!r}"
            )
        plain[name] = {"batchable": False} | plain_value(dict(options), f"signature {name}")
    if not plain:
        raise ConfigError(f"signatures is empty; omit it for {DEFAULT_SIGNATURES}")
    return plain


def _attributes(signature: Any) -> dict[str, Any] | None:
    """Return the options of BentoML's ``ModelSignature``; ``None`` for other objects."""
    if not hasattr(signature, "batchable"):
        return None
    found = {key: getattr(signature, key, None) for key in sorted(_SIGNATURE)}
    return {key: value for key, value in found.items() if value is not None}


def plain_categories(categories: Categories) -> dict[str, Any]:
    """Return categories as mappings and lists."""
    return {name: _lists(value) for name, value in asdict(categories).items()}


def parse_categories(stored: Mapping[str, Any]) -> Categories:
    """Return the categories that ``plain_categories`` converted.

    Raises:
        Exception: The values have another structure; ``TypeError``, ``ValueError``, ``KeyError``.
    """
    if not all(isinstance(values, (list, tuple)) for values in stored.values()):
        raise TypeError("expected lists")
    fields = {name: tuple(values) for name, values in stored.items() if name != "skeleton"}
    return Categories(**fields, skeleton=tuple((a, b) for a, b in stored["skeleton"]))


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
