"""Saves and restores the state that a model keeps between forwards.

For models that are not known to be stateless. A module may keep state in its attributes and
buffers, in closures of its hooks and functions, in class attributes, in globals of its Python
module, and in random generators. This state is found by following references from the model.
Objects of the standard library and of known packages are not followed.
"""

from __future__ import annotations

import copy
import functools
import gc
import random
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from types import MethodType
from typing import Any

import numpy as np

from pipeline.runnables.state.references import StateReferences, is_object, parts
from pipeline.runnables.state.stateless import is_known

_MISSING = object()


class ModelState:
    """The state that a model keeps between forwards.

    Args:
        module: The model. The constructor searches it for references to state.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._references = StateReferences(module)

    @contextmanager
    def restored(self, *, always: bool) -> Iterator[None]:
        """Restore the state after the block.

        Args:
            always: Also if the block did not raise.
        """
        saved = _Snapshot()
        saved.save(self._module, self._references)
        try:
            yield
        except BaseException:
            saved.restore()
            raise
        if always:
            saved.restore()


class _Snapshot:
    """Saved values, and functions that restore them."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._seen: set[int] = set()
        self._kept: list[Any] = []
        self._copies: dict[int, Any] = {}

    def save(self, module: Any, references: StateReferences) -> None:
        import torch

        for each in module.modules():
            self._visit(each)
        for (_, name), space in references.names.items():
            held = space if isinstance(space, dict) else vars(space)
            value = self._value(held.get(name, _MISSING))
            self._undo.append(functools.partial(_set, space, name, value))
        for cell in references.cells:
            with suppress(ValueError):
                value = self._value(cell.cell_contents)
                self._undo.append(functools.partial(setattr, cell, "cell_contents", value))
        for value in references.values:
            self._visit(value)
        for cache in references.caches:
            for held in gc.get_referents(cache):  # its results, or a dict of results
                for result in held.values() if type(held) is dict else [held]:
                    self._visit(result)
            if not cache.cache_info().currsize:
                self._undo.append(cache.cache_clear)
        self._undo += [functools.partial(random.setstate, random.getstate())]
        self._undo += [functools.partial(np.random.set_state, np.random.get_state())]
        self._undo += [functools.partial(torch.set_rng_state, torch.get_rng_state())]
        for device in {parameter.device for parameter in module.parameters() if parameter.is_cuda}:
            state = torch.cuda.get_rng_state(device)
            self._undo += [functools.partial(torch.cuda.set_rng_state, state, device)]

    def restore(self) -> None:
        import torch

        with torch.inference_mode():  # only here can its tensors be changed
            for undo in self._undo:
                undo()

    def _value(self, value: Any) -> Any:
        """Return what to restore: the value itself; for an iterator, a copy at its position."""
        self._visit(value)
        if not isinstance(value, Iterator):
            return value
        if id(value) not in self._copies:
            self._kept.append(value)
            with warnings.catch_warnings(), suppress(Exception):  # generators cannot be copied
                warnings.simplefilter("ignore")  # Python 3.12 deprecates copying itertools
                self._copies[id(value)] = copy.copy(value)
        return self._copies.get(id(value), value)

    def _visit(self, value: Any) -> None:
        from torch import nn

        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._kept.append(value)
        if isinstance(value, nn.Module):
            self._visit_module(value)
        elif (undo := self._undo_of(value)) is not None:
            self._undo.append(undo)
        elif isinstance(value, (tuple, MethodType, functools.partial)):
            for part in parts(value):
                self._visit(part)

    def _undo_of(self, value: Any) -> Callable[[], object] | None:
        import torch

        if isinstance(value, torch.Tensor):
            return functools.partial(_refill, value, value.detach().clone())
        if isinstance(value, np.ndarray):
            return functools.partial(np.copyto, value, value.copy())
        if isinstance(value, MutableMapping):
            return functools.partial(_remap, value, {k: self._value(v) for k, v in value.items()})
        if isinstance(value, (list, deque, bytearray)):
            return functools.partial(_relist, value, [self._value(each) for each in value])
        if isinstance(value, set):
            return functools.partial(_reset, value, set(value))
        if isinstance(value, random.Random):
            return functools.partial(value.setstate, value.getstate())
        if isinstance(value, (np.random.Generator, np.random.RandomState)):
            bits: Any = getattr(value, "bit_generator", getattr(value, "_bit_generator", None))
            return functools.partial(setattr, bits, "state", bits.state)
        if isinstance(value, torch.Generator):
            return functools.partial(value.set_state, value.get_state())
        if is_object(value):
            saved = {name: self._value(each) for name, each in vars(value).items()}
            return functools.partial(_remap, vars(value), saved)
        return None

    def _visit_module(self, module: Any) -> None:
        if is_known(module):  # never writes to its weights, most of the memory
            self._seen.add(id(module._parameters))
        saved = {key: self._value(value) for key, value in vars(module).items()}
        self._undo.append(functools.partial(_remap, vars(module), saved))


def _set(space: Any, name: str, value: Any) -> None:
    if isinstance(space, dict):
        space.pop(name, None) if value is _MISSING else space.update({name: value})
    elif value is not _MISSING:
        setattr(space, name, value)
    elif name in vars(space):
        delattr(space, name)


def _refill(tensor: Any, saved: Any) -> None:
    if tensor.shape != saved.shape:
        tensor.resize_(saved.shape)
    tensor.copy_(saved)


def _remap(mapping: Any, saved: dict[Any, Any]) -> None:
    for key in [key for key in mapping if key not in saved]:
        del mapping[key]
    if isinstance(mapping, OrderedDict) and list(mapping) != list(saved):
        mapping.clear()
    mapping.update(saved)


def _relist(values: Any, saved: list[Any]) -> None:
    values.clear()
    values.extend(saved)


def _reset(values: set[Any], saved: set[Any]) -> None:
    values.clear()
    values.update(saved)
