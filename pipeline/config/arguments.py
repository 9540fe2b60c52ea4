"""Whether a configuration's values fit what they are given to, by its annotations."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pipeline.errors import did_you_mean

_SAID = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_SAID[dict] = "a mapping"
_SAID |= {NoneType: "null"}


def misfits(target: Any, values: Mapping[str, Any], key: str = "") -> Iterator[str]:
    """Say of each value why the target does not take it.

    What is not annotated, or with a type that YAML does not have, fits.

    Args:
        target: A class or a function.
        values: By name of argument, as YAML has them.
        key: Where in the configuration they are.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    hints = _hints(target)
    prefix = f"{key}." if key else ""
    for name, value in values.items():
        hint = hints.get(name, Any)
        if name not in parameters and not takes_any:
            known = [f"{prefix}{each}" for each in parameters]
            yield f"no option '{prefix}{name}'{did_you_mean(f'{prefix}{name}', known)}"
        elif not fits(value, hint):
            as_text = fits("", hint) and isinstance(value, (int, float))
            quoted = f"""; as text it is {prefix}{name}='"{value}"'""" if as_text else ""
            yield f"{prefix}{name}: expected {said(hint)}, got {given(value)}{quoted}"


def _hints(target: Any) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # names that are there for type checkers only
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value of YAML can be given where this type is expected."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(fits(value, each) for each in arguments)
    if kind is float:
        return type(value) in (int, float)
    if kind in _SAID:  # bool is an int, too
        return type(value) is kind
    if kind in (list, tuple, Sequence):
        items = arguments[0] if arguments else Any
        return isinstance(value, list) and all(fits(each, items) for each in value)
    if kind in (dict, Mapping):
        return isinstance(value, dict)
    return True


def said(hint: Any) -> str:
    """Return the name of a type for people who write YAML."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(said(each) for each in arguments)
    if kind in (list, tuple, Sequence):
        return "a list"
    if kind is Mapping or is_dataclass(kind):
        return _SAID[dict]
    return _SAID.get(kind) or str(hint)


def shown(value: Any) -> str:
    """Return a value as YAML has it: ``true``, ``null``, ``'a text'``."""
    if isinstance(value, Mapping) and not value:
        return _SAID[dict]
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def given(value: Any) -> str:
    """Return a value as it was given; with a hint if several may be meant."""
    several = isinstance(value, str) and "," in value and value[:1] not in ("[", "{")
    return shown(value) + ("; add -m to run a job per value" if several else "")


def near(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` if a known word is near, else nothing."""
    hint = did_you_mean(word, known)
    return hint if hint.startswith("; did") else ""
