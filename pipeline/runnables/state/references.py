"""Finds where the code of a model may keep state, by following references from its modules."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import suppress
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

_STATELESS_PACKAGES = {
    *sys.stdlib_module_names,
    "torch",
    "torchvision",
    "detectron2",
    "fvcore",
    "numpy",
}
_STATELESS_PACKAGES |= {"cv2", "PIL", "pipeline", "runners"}
_STATELESS_PACKAGES -= {"__main__"}
_CACHE = type(functools.lru_cache(lambda: None))


class StateReferences:
    """The state outside a model's modules that its code refers to.

    Only code of the packages that define the model's custom modules and hooks is searched.

    Attributes:
        names: Namespaces (dicts of globals, or classes), by their id and a name in them.
        cells: Cells of closures.
        values: Default values and attributes of functions.
        caches: Functions under ``lru_cache``.
    """

    def __init__(self, module: Any) -> None:
        from torch.nn.modules import module as torch_module

        self.names: dict[tuple[int, str], Any] = {}
        self.cells: list[Any] = []
        self.values: list[Any] = []
        self.caches: list[Any] = []
        names = ("_global_forward_hooks", "_global_forward_pre_hooks")
        starts = [*module.modules(), *(getattr(torch_module, name) for name in names)]
        held = list(starts)
        for _ in range(2):  # hooks are in dicts of the modules
            held += [part for each in held for part in parts(each)]
        self._packages = {_package(each) for each in held} - _STATELESS_PACKAGES
        seen: dict[int, Any] = {}  # the values keep ids from being reused
        waiting = starts
        while waiting:
            value = waiting.pop()
            if id(value) not in seen:
                seen[id(value)] = value
                waiting += self._followed(value)

    def _followed(self, value: Any) -> Iterable[Any]:
        """Record the state that a value refers to, and return the referenced objects."""
        if isinstance(value, FunctionType):
            return self._of_function(value) if _package(value) in self._packages else ()
        if isinstance(value, type):
            return self._of_class(value)
        if isinstance(value, _CACHE):
            self.caches.append(value)
            return [value.__wrapped__]
        return () if isinstance(value, ModuleType) else [type(value), *parts(value)]

    def _of_function(self, function: FunctionType) -> Iterator[Any]:
        extra = [function.__defaults__, function.__kwdefaults__, vars(function)]
        self.values += extra
        yield from extra
        for cell in function.__closure__ or ():
            self.cells.append(cell)
            with suppress(ValueError):  # an empty cell
                yield cell.cell_contents
        used = set(_names(function.__code__))  # of globals, and of attributes
        spaces = [function.__globals__]
        modules = (function.__globals__.get(name) for name in used)
        spaces += [vars(each) for each in modules if isinstance(each, ModuleType)]
        for space in spaces:
            if str(space.get("__name__")).split(".")[0] in self._packages:
                for name in used:
                    if not isinstance(space.get(name), ModuleType):
                        self.names[id(space), name] = space
                        yield space.get(name)

    def _of_class(self, kind: type) -> Iterator[Any]:
        for cls in kind.__mro__:
            if cls.__module__.split(".")[0] in self._packages:
                for name, value in vars(cls).items():
                    function = getattr(value, "fget", None) or getattr(value, "__func__", value)
                    if not name.startswith("__") and not callable(function):
                        self.names[id(cls), name] = cls
                    yield function


def parts(value: Any) -> list[Any]:
    """Return the items of a container, the parts of a bound function, or an object's attributes."""
    if isinstance(value, MutableMapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    return list(vars(value).values()) if is_object(value) else []


def is_object(value: Any) -> bool:
    """Return whether a value's attributes may be state, which those of libraries are not."""
    from torch import nn

    kind = type(value)
    if not hasattr(value, "__dict__") or isinstance(value, (type, ModuleType, FunctionType)):
        return False
    known = isinstance(value, (nn.Module, SimpleNamespace))
    return known or kind.__module__.split(".")[0] not in _STATELESS_PACKAGES - {"detectron2"}


def _package(value: Any) -> str:
    """Return the package of a function, or of a value's class."""
    value = getattr(value, "__func__", value)
    if isinstance(value, FunctionType):
        return str(value.__globals__.get("__name__")).split(".")[0]
    return type(value).__module__.split(".")[0]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
