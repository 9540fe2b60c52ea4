"""Checks arguments against the annotations of the function that receives them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pipeline.errors import did_you_mean

_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
_TYPE_NAMES |= {dict: "a mapping", NoneType: "null"}


def bad_arguments(target: Any, values: Mapping[str, Any], key: str = "") -> Iterator[str]:
    """Yield a message for each value that the target does not accept.

    Arguments without an annotation, or with a type that YAML lacks, accept any value.

    Args:
        target: A class or a function.
        values: Plain YAML values by argument name.
        key: The key of the arguments in the configuration.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return
    accepts_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    hints = _hints(target)
    prefix = f"{key}." if key else ""
    for name, value in values.items():
        hint = hints.get(name, Any)
        if name not in parameters and not accepts_any:
            known = [f"{prefix}{each}" for each in parameters]
            yield f"no option '{prefix}{name}'{did_you_mean(f'{prefix}{name}', known)}"
        elif not fits(value, hint):
            is_text = fits("", hint) and isinstance(value, (int, float))
            quoted = f"""; to pass a string, write {prefix}{name}='"{value}"'""" if is_text else ""
            yield f"{prefix}{name}: expected {type_name(hint)}, got {given(value)}{quoted}"


def _hints(target: Any) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # names that exist only for type checkers
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Return whether a YAML value is accepted where this type is expected."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(fits(value, each) for each in arguments)
    if kind is float:
        return type(value) in (int, float)
    if kind in _TYPE_NAMES:  # bool is an int, too
        return type(value) is kind
    if kind in (list, tuple, Sequence):
        items = arguments[0] if arguments else Any
        return isinstance(value, list) and all(fits(each, items) for each in value)
    if kind in (dict, Mapping):
        return isinstance(value, dict)
    return True


def type_name(hint: Any) -> str:
    """Return the name of a type in the words of a YAML user."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(type_name(each) for each in arguments)
    if kind in (list, tuple, Sequence):
        return "a list"
    if kind is Mapping or is_dataclass(kind):
        return _TYPE_NAMES[dict]
    return _TYPE_NAMES.get(kind) or str(hint)


def shown(value: Any) -> str:
    """Return a value in YAML's notation: ``true``, ``null``, ``'text'``."""
    if isinstance(value, Mapping) and not value:
        return _TYPE_NAMES[dict]
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def given(value: Any) -> str:
    """Return a value for a message, with a hint if it looks like several values."""
    several = isinstance(value, str) and "," in value and value[:1] not in ("[", "{")
    return shown(value) + ("; add -m to run a job per value" if several else "")


def near(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` if a known word is near, else nothing."""
    hint = did_you_mean(word, known)
    return hint if hint.startswith("; did") else ""
