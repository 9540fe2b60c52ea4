"""Reads pickles of arrays and of configs without running code.

The model zoo's weights are pickles, and a pickle can call any function by name. Here the names that
NumPy writes map to the placeholders below, and all other names are rejected. NumPy's functions are
not called either, because a crafted ``dtype`` state can corrupt memory. BentoML stores a model's
config as a pickle, which needs only plain values and the construction of a ``CfgNode``.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.errors import ModelCorruptError, UntrustedModelError
from pipeline.models.weights.opcodes import (
    MAX_VALUES,
    Placeholder,
    RefusedError,
    SetPlaceholder,
    interpret,
    set_items,
)
from pipeline.system.files import RegularFile

_KINDS = "biufcSU"  # booleans, numbers and text; never objects
_MAX_DEPTH = 32
_MAX_CONFIG_BYTES = 4 << 20  # a thousand times the size of a usual config

_CFG_NODES = {
    "detectron2.config.config.CfgNode",
    "detectron2.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "yacs.config.CfgNode",
}
_CFG_NODE = Placeholder(dict)


class _Dtype:
    """Placeholder of a ``numpy.dtype`` during its construction."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        dtype = np.dtype(code[:32])
        if dtype.kind not in _KINDS:
            raise RefusedError(f"an array of dtype '{dtype}'")
        self.dtype = dtype

    def build(self, state: tuple[Any, ...]) -> None:
        _, byteorder, subarray, names, fields, *_ = state
        if subarray is not None or names is not None or fields is not None:
            raise RefusedError("an array of records")
        self.dtype = self.dtype.newbyteorder(byteorder)


class ArrayNames:
    """Maps the names in a pickle of arrays to placeholders.

    Args:
        limit: Maximum size of all arrays together, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._known: dict[str, Any] = {
            "collections.OrderedDict": Placeholder(_dict),
            "collections.Counter": Placeholder(_dict),
            "_codecs.encode": Placeholder(_encode),
            "numpy.ndarray": Placeholder(lambda *_: _Array(self)),
            "numpy.dtype": Placeholder(lambda code, *_: _Dtype(str(code))),
        }
        for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
            self._known |= {
                f"{core}.multiarray._reconstruct": Placeholder(lambda *_: _Array(self)),
                f"{core}.multiarray.scalar": Placeholder(self._scalar),
                f"{core}.numeric._frombuffer": Placeholder(self._frombuffer),
            }

    def __call__(self, name: str) -> Any:
        """Return the placeholder of a name."""
        try:
            return self._known[name]
        except KeyError:
            raise RefusedError(name[:200]) from None

    def array(self, data: Any, dtype: Any, shape: Any, order: Any) -> Any:
        """Return an array over bytes of a pickle, and count them; they can be shared."""
        if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray, str)):
            raise RefusedError("an array of Python objects")
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("more arrays than the file has bytes")
        # pickles of Python 2 have text here
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        return np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")

    def _frombuffer(self, data: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
        array = _Array(self)
        array.value = self.array(data, dtype, shape, order)
        return array

    def _scalar(self, dtype: Any, data: Any = b"") -> Any:
        return self.array(data, dtype, (1,), "C")[0]


class _Array:
    """Placeholder of a ``numpy.ndarray`` until its bytes are known."""

    __slots__ = ("_names", "value")

    def __init__(self, names: ArrayNames) -> None:
        self._names = names
        self.value: Any = None

    def build(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = self._names.array(data, dtype, shape, "F" if fortran else "C")


def _dict(items: Any = ()) -> dict[Any, Any]:
    if isinstance(items, dict):
        return dict(items)
    return set_items({}, [value for key, item in items for value in (key, item)])


def _encode(text: str, encoding: str = "") -> bytes:
    if encoding != "latin1":
        raise RefusedError(f"_codecs.encode to '{encoding:.80}'")
    return text.encode("latin1")


def load_arrays(file: RegularFile) -> Any:
    """Return the content of a pickle: arrays, numbers and text in dicts, lists and tuples.

    Raises:
        RefusedError: The pickle names anything else; says what.
        Exception: The pickle is damaged; any type.
    """
    return plain_copy(interpret(file, ArrayNames(file.size), calls=True))


def load_config(path: Path) -> dict[str, Any]:
    """Return the mapping in a pickle: text, numbers, lists, tuples and ``CfgNode`` trees.

    Every ``CfgNode`` is returned as a plain dict.

    Raises:
        UntrustedModelError: The pickle requires anything else; says what.
        ModelCorruptError: The file is not a complete pickle of a mapping.
        OSError: The file cannot be read.
    """
    with RegularFile(path) as file:
        data = file.read(_MAX_CONFIG_BYTES + 1)
    try:
        if len(data) > _MAX_CONFIG_BYTES:
            raise RefusedError(f"more than {_MAX_CONFIG_BYTES >> 20} MiB of objects")
        config = plain_copy(interpret(_stream(data), _config_name))
        if not isinstance(config, dict):
            raise ValueError(f"a {type(config).__name__} instead of a mapping")
    except RefusedError as exc:
        raise UntrustedModelError(
            f"'{path}' is not loaded, because it requires {exc}, which could run code. If you "
            "trust its author, use --trust (trust=True)"
        ) from None
    except Exception as exc:  # a damaged pickle can raise anything
        raise ModelCorruptError(
            f"'{path}' is not a complete pickle of a config ({type(exc).__name__}: {exc}); export "
            "the model again"
        ) from exc
    return config


def plain_copy(value: Any) -> Any:
    """Return a deep copy of nested values that shares no dict, list or tuple.

    Raises:
        ValueError: The values are nested too deeply, or there are too many.
    """
    return _plain(value, itertools.count())


def _stream(data: bytes) -> IO[bytes]:
    return io.BytesIO(data)


def _config_name(name: str) -> Placeholder:
    if name not in _CFG_NODES:
        raise RefusedError(name[:200])
    return _CFG_NODE


def _plain(value: Any, count: Iterator[int], depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if next(count) > MAX_VALUES:
        raise ValueError("too many values")
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without content")
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item, count, depth + 1) for key, item in value.items()}
    if isinstance(value, (Placeholder, _Dtype, SetPlaceholder)):
        raise RefusedError("a function, a type or a set as a value")
    if isinstance(value, (list, tuple)):
        items = [_plain(item, count, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
