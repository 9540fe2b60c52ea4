"""Plain copies of a model's labels, metadata and class names, for ``model.yaml``."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.records import Categories

_MAX_BITS = 200  # per number; at most 64 digits can be read back
_PLAIN = "text, numbers, true, false, null, bytes, dates, lists and mappings"
_KEYS = (str, int, float)  # as in BentoML


def expect_mapping(given: Any, name: str, expected: str) -> Mapping[Any, Any]:
    """Return a mapping, empty for ``None``.

    Raises:
        ConfigError: It is something else.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{name}: expected a mapping of names to {expected}, got {given!r:.80}")
    return given or {}


def plain_labels(labels: Mapping[str, Any] | None) -> dict[str, str]:
    """Return a copy of labels, with numbers as text.

    Raises:
        ConfigError: A key is not text, or a value is neither text nor a number.
    """
    plain = {}
    for key, given in expect_mapping(labels, "labels", "text, as in {'team': 'vision'}").items():
        if not isinstance(key, str) or not isinstance(given, (str, int, float)):
            raise ConfigError(f"label {key!r}: expected text, as in team: vision, got {given!r}")
        value = plain_value(given, f"label {key!r}")
        plain[str.__str__(key)] = str(value).lower() if isinstance(value, bool) else str(value)
    return plain


def plain_metadata(metadata: Mapping[Any, Any] | None) -> dict[Any, Any]:
    """Return a copy of metadata in YAML's types, with NumPy values as numbers and lists.

    Raises:
        ConfigError: A value has another type; says where.
    """
    given = expect_mapping(metadata, "metadata", "values, as in {'box_ap': 41.2}")
    try:
        copy: dict[Any, Any] = plain_value(given, "metadata")
    except RecursionError:
        raise ConfigError("metadata is nested too deeply or contains itself; flatten it") from None
    return copy


def plain_value(value: Any, where: str) -> Any:
    """Return a copy made of YAML's types; subclasses become these types, and tuples lists.

    Raises:
        ConfigError: A value has another type; says where.
    """
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "detach"):  # or torch
        value = value.tolist()
    if value is None:
        return None
    is_huge = isinstance(value, int) and value.bit_length() > _MAX_BITS
    for kind, convert in () if is_huge else _SCALARS:
        if isinstance(value, kind):
            return convert(value)
    if isinstance(value, (list, tuple)):
        return [plain_value(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return _plain_mapping(value, where)
    raise ConfigError(
        f"{where}: expected {_PLAIN}, got {value!r:.80}. Save other values as custom_objects"
    )


def json_value(value: Any) -> Any:
    """Return a plain value in JSON's types.

    As in the JSON of protobuf, NaN and infinite numbers become the text ``NaN``, ``Infinity`` and
    ``-Infinity``, and bytes become base64. Dates become ISO text.
    """
    if isinstance(value, Mapping):
        return {_json_key(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date) else value


def _plain_mapping(value: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    plain: dict[Any, Any] = {}
    shown: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(name := plain_value(key, f"a key of {where}"), _KEYS):
            raise ConfigError(f"{where}: expected text or a number as a key, got {key!r:.80}")
        if (text := _json_key(name)) in shown:
            raise ConfigError(
                f"{where}: the keys {shown[text]!r} and {name!r} are the same text; rename one"
            )
        shown[text] = name
        plain[name] = plain_value(item, f"{where}.{text}")
    return plain


def _json_key(key: Any) -> str:
    """Return the text of a key in JSON."""
    return key if isinstance(key, str) else json.dumps(key, default=str)


def _plain_date(value: date) -> date:
    return date(value.year, value.month, value.day)


def _plain_time(value: datetime) -> datetime:
    plain = datetime.combine(value.date(), value.timetz())
    offset = plain.utcoffset()
    # YAML has no seconds in offsets
    return plain.astimezone(timezone.utc) if offset and offset % timedelta(minutes=1) else plain


# in this order, because a bool is an int, and a datetime a date
_SCALARS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (bool, bool),
    (str, str.__str__),
    (int, int),
    (float, float),
    (bytes, bytes),
    (datetime, _plain_time),
    (date, _plain_date),
)


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
