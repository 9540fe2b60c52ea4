"""Reads pickles of arrays and of configs, and runs none of the code a pickle can name.

The model zoo's weights are pickles, and a pickle may call any function by its name. Here the names
that NumPy writes stand for the small stand-ins below, and every other name is refused. Not even
NumPy's own functions are called, as crafted states of a ``dtype`` can corrupt memory.

BentoML keeps a model's config in a pickle. That needs no calls at all, so it is read by the small
interpreter at the end, which knows no more than plain values and the making of a ``CfgNode``.
"""

from __future__ import annotations

import copyreg
import itertools
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.errors import ModelCorruptError, UntrustedModelError

_KINDS = "biufcSU"  # booleans, numbers and text; never objects
_MAX_DEPTH = 32
_MAX_VALUES = 1_000_000  # a few bytes can say "twice that" thirty times over
_MAX_CONFIG_BYTES = 4 << 20  # a thousand times a usual config

_CFG_NODES = {
    "detectron2.config.config.CfgNode",
    "detectron2.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "yacs.config.CfgNode",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _RefusedError(Exception):
    """The pickle asks for something that is not on the list."""


class _Dtype:
    """Stands for a ``numpy.dtype`` while it is being put together."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        dtype = np.dtype(code)
        if dtype.kind not in _KINDS:
            raise _RefusedError(f"an array of dtype '{dtype}'")
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, byteorder, subarray, names, fields, *_ = state
        if subarray is not None or names is not None or fields is not None:
            raise _RefusedError("an array of records")
        self.dtype = self.dtype.newbyteorder(byteorder)


class _Array:
    """Stands for a ``numpy.ndarray`` until its bytes are known."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray, str)):
        raise _RefusedError("an array of Python objects")
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)  # str: Python 2 wrote it
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


class _Stand:
    """A callable that a pickle can neither change nor take apart."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("changing a function's state")


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
    array = _Array()
    array.value = _array(data, dtype, shape, order)
    return array


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _array(data, dtype, (1,), "C")[0]


def _encode(text: str, encoding: str = "") -> bytes:
    if encoding != "latin1":
        raise _RefusedError(f"_codecs.encode to '{encoding}'")
    return text.encode("latin1")


_STANDS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Stand(_encode),
    ("numpy", "ndarray"): _Stand(lambda *_: _Array()),
    ("numpy", "dtype"): _Stand(lambda code, *_: _Dtype(str(code))),
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _STANDS[_core + ".multiarray", "_reconstruct"] = _Stand(lambda *_: _Array())
    _STANDS[_core + ".multiarray", "scalar"] = _Stand(_scalar)
    _STANDS[_core + ".numeric", "_frombuffer"] = _Stand(_frombuffer)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STANDS[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("a persistent id")


def load_arrays(path: Path) -> Any:
    """Return what a pickle holds: arrays, numbers and text in dicts, lists and tuples.

    Raises:
        UntrustedModelError: It names anything else; says what.
        ModelCorruptError: It is not a whole pickle.
    """
    with path.open("rb") as file:
        try:
            return plain_copy(_unpickle(file))
        except _RefusedError as exc:
            raise UntrustedModelError(
                f"'{path}' is a pickle that asks for {exc}, which could run code, so it is not "
                "loaded; convert its weights to .safetensors where you trust it"
            ) from None
        except Exception as exc:  # a broken pickle raises whatever its stray opcodes raise
            raise ModelCorruptError(
                f"'{path}' is not a whole pickle of arrays ({type(exc).__name__}: {exc}); "
                "get the file again"
            ) from exc


def load_config(path: Path) -> dict[str, Any]:
    """Return the mapping that a pickle holds: texts, numbers, lists, tuples and ``CfgNode`` trees.

    Every ``CfgNode`` is a plain dict in it.

    Raises:
        UntrustedModelError: It asks for anything else; says what.
        ModelCorruptError: It is not a whole pickle of a mapping.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_CONFIG_BYTES + 1)
    try:
        if len(data) > _MAX_CONFIG_BYTES:
            raise _RefusedError(f"more than {_MAX_CONFIG_BYTES >> 20} MiB of objects")
        config = plain_copy(_interpret(data))
        if not isinstance(config, dict):
            raise ValueError(f"a {type(config).__name__} in place of a mapping")
    except _RefusedError as exc:
        raise UntrustedModelError(
            f"'{path}' asks for {exc}, which could run code, so it is not loaded; where you trust "
            "who made it, use --trust (trust=True)"
        ) from None
    except Exception as exc:  # a broken pickle raises whatever its stray opcodes raise
        raise ModelCorruptError(
            f"'{path}' is not a whole pickle of a config ({type(exc).__name__}: {exc}); "
            "get the file again"
        ) from exc
    return config


def plain_copy(value: Any) -> Any:
    """Return a copy of nested values in which no two places share a dict, a list or a tuple.

    Raises:
        ValueError: It is nested too deeply, or has too many values.
    """
    return _plain(value, itertools.count())


def _unpickle(file: BinaryIO) -> Any:
    copyreg.clear_extension_cache()  # it would give out what find_class has not seen
    return _Unpickler(file, encoding="latin1").load()  # the zoo's files come from Python 2


def _plain(value: Any, count: Iterator[int], depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if next(count) > _MAX_VALUES:
        raise ValueError("too many values")
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without content")
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item, count, depth + 1) for key, item in value.items()}
    if isinstance(value, (_Stand, _Dtype, _Set, type)):
        raise _RefusedError("a function, a type or a set as a value")
    if isinstance(value, (list, tuple)):
        items = [_plain(item, count, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


class _Node:
    """Stands for the class ``CfgNode``; never made, as a dict stands for what it makes."""


class _Set(list[Any]):
    """Stands for a set, which a ``CfgNode`` has in its own state."""


def _interpret(data: bytes) -> Any:
    """Follow a pickle's opcodes as ``pickle`` does, as far as plain values need them."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def above_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    opcodes: Iterator[tuple[Any, Any, Any]] = pickletools.genops(data)
    for opcode, argument, _ in opcodes:
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_CONSTANTS[opcode.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                stack.append(argument)
            case "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                stack.append(tuple(above_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_SET":
                stack.append(_Set())
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS" | "ADDITEMS":
                items = above_mark()
                stack[-1].extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                items = [stack.pop(-2), stack.pop()]
                _set_items(stack[-1], items)
            case "SETITEMS":
                items = above_mark()
                _set_items(stack[-1], items)
            case "GLOBAL":
                stack.append(_node(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(_node(stack.pop(-2), stack.pop()))
            case "NEWOBJ":
                if (stack.pop(-2), stack.pop()) != (_Node, ()):
                    raise _RefusedError("the making of an object")
                stack.append({})
            case "BUILD":
                stack.pop()  # whether a CfgNode is frozen, and the like
            case "INST":
                raise _RefusedError(argument.replace(" ", ".")[:200])
            case other:
                raise _RefusedError(f"the pickle opcode {other}")
    return stack.pop()


def _set_items(into: dict[Any, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        # a tuple of shared tuples takes for ever to hash
        if key is not None and not isinstance(key, (str, int, float)):
            raise _RefusedError("a key that is neither text nor a number")
        into[key] = value


def _node(module: Any, name: Any) -> type[_Node]:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a name that is not text")
    if f"{module}.{name}" not in _CFG_NODES:
        raise _RefusedError(f"{module}.{name}"[:200])
    return _Node
