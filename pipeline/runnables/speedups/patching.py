"""Replaces methods of single modules: the only way in which speed-ups change a model.

A replaced method is an attribute of the instance. Its class and all other instances stay as they
are, and hooks still run, because torch calls an instance's own ``forward`` between them. Every
module records which of its methods were replaced here, so that ``state.stateless`` can distinguish
them from methods that other code replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[..., Any]

RECORD = "_d2run_replaced"  # attribute of a module: its replaced methods by name


def replace_method(module: Any, name: str, call: Call) -> bool:
    """Replace a method of one module with another way to compute the same.

    Args:
        module: An ``nn.Module`` of exactly the class whose method ``call`` replaces.
        name: The method.
        call: Takes the method's arguments, without ``self``.

    Returns:
        Whether it was replaced. A method that other code has replaced on this instance is kept.
    """
    if name in vars(module) and name not in replaced_methods(module):
        return False
    _set(module, name, call)
    return True


def wrap_method(module: Any, name: str, wrapper: Callable[[Call], Call]) -> None:
    """Replace a method of one module with ``wrapper(method)``, which calls the method."""
    _set(module, name, wrapper(getattr(module, name)))


def replaced_methods(module: Any) -> Mapping[str, Call]:
    """Return the methods of a module that were replaced here, by name."""
    replaced: dict[str, Call] = vars(module).get(RECORD, {})
    return {name: call for name, call in replaced.items() if vars(module).get(name) is call}


def _set(module: Any, name: str, call: Call) -> None:
    setattr(module, name, call)
    vars(module).setdefault(RECORD, {})[name] = call
