"""Whether a configuration's values fit what they are given to, by its annotations."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pipeline.errors import did_you_mean

_SAID = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_SAID |= {NoneType: "null"}


def misfits(target: Any, values: Mapping[str, Any]) -> Iterator[str]:
    """Say of each value why the target does not take it.

    What is not annotated, or with a type that YAML does not have, fits.

    Args:
        target: A class or a function.
        values: By name of argument, as YAML has them; Hydra's own names begin with ``_``.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    hints = _hints(target)
    for name, value in values.items():
        if name.startswith("_"):
            continue
        hint = hints.get(name, Any)
        if name not in parameters and not takes_any:
            yield f"there is no option '{name}'{did_you_mean(name, parameters)}"
        elif not _fits(value, hint):
            yield f"{name}: expected {_said(hint)}, got {value!r}"


def _hints(target: Any) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # names that are there for type checkers only
        return {}


def _fits(value: Any, hint: Any) -> bool:
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if kind is float:
        return type(value) in (int, float)
    if kind in _SAID:  # bool is an int, too
        return type(value) is kind
    if kind in (list, tuple, Sequence):
        items = arguments[0] if arguments else Any
        return isinstance(value, list) and all(_fits(each, items) for each in value)
    return True


def _said(hint: Any) -> str:
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(_said(each) for each in arguments)
    return _SAID.get(kind) or ("a list" if kind in (list, tuple, Sequence) else str(hint))
