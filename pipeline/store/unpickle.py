"""Reads pickles of NumPy arrays in plain containers, and runs none of the code a pickle can name.

The model zoo's weights are pickles, and a pickle may call any function by its name. Here the names
that NumPy writes stand for the small stand-ins below, and every other name is refused. Not even
NumPy's own functions are called, as crafted states of a ``dtype`` can corrupt memory.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.errors import ModelCorruptError, UntrustedModelError

_KINDS = "biufcSU"  # booleans, numbers and text; never objects
_MAX_DEPTH = 32


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
            return _plain(_unpickle(file), 0)
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


def _unpickle(file: BinaryIO) -> Any:
    return _Unpickler(file, encoding="latin1").load()  # the zoo's files come from Python 2


def _plain(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without content")
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, (_Stand, _Dtype, type)):
        raise _RefusedError("a function or a type as a value")
    return value
