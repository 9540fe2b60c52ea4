"""A small interpreter of pickles that knows plain values and calls only what its caller names.

``pickle`` itself can be made to hang or to take all memory by a few bytes: a key whose hash takes
an hour, a length of gigabytes, a place in a table that reaches that far. Here nothing is hashed but
texts and numbers, nothing is allocated that the file does not hold, and steps are counted.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

MAX_VALUES = 1_000_000  # a few bytes can say "twice that" thirty times over
_MAX_BITS = 4096  # of a number; Python prints no more than 4,300 digits

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
# What plain values of protocol 2 and later never need.
_OLD_NUMBERS = {"INT", "LONG", "FLOAT"}
_OLD_TEXTS = {"STRING", "UNICODE", "BINSTRING", "SHORT_BINSTRING"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CALLING = {"REDUCE", "BINPERSID", "GET", "PUT", "DICT", "LIST", "POP", "POP_MARK"}
_ONLY_WITH_CALLS = _OLD_NUMBERS | _OLD_TEXTS | _BYTES | _CALLING


class RefusedError(Exception):
    """The pickle asks for something that is not on the list."""


class Stand:
    """A callable that stands for what a pickle names, and that a pickle cannot change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        """Return what stands for the object that the pickle makes."""
        return self._call(*args)


class SetOf(list[Any]):
    """Stands for a set, whose items are not hashed."""


def interpret(
    stream: IO[bytes],
    names: Callable[[str], Any],
    *,
    calls: bool = False,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Follow a pickle's opcodes as ``pickle`` does, up to its end.

    Args:
        stream: The pickle; what follows it is not read.
        names: Returns what stands for ``module.name``, or raises RefusedError.
        calls: Whether stands may be called with arguments, and values of every protocol are read.
        persistent: Returns what stands for a persistent id.

    Raises:
        RefusedError: It asks for something else.
        Exception: It is not a whole pickle; any kind.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def above_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    steps: Iterable[tuple[Any, Any, Any]] = pickletools.genops(stream)
    for opcode, argument, _ in _limited(steps):
        name = opcode.name
        if not calls and name in _ONLY_WITH_CALLS:
            raise RefusedError(f"the pickle opcode {name}")
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _ if name in _NUMBERS or name in _OLD_NUMBERS:
                if isinstance(argument, int) and argument.bit_length() > _MAX_BITS:
                    raise ValueError(f"a number of {argument.bit_length()} bits")
                stack.append(argument)
            case _ if name in _TEXTS or name in _OLD_TEXTS or name in _BYTES:
                stack.append(argument)
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "POP":
                marks.pop() if marks and marks[-1] == len(stack) else stack.pop()
            case "POP_MARK":
                above_mark()
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                stack.append(tuple(above_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(above_mark())
            case "EMPTY_SET":
                stack.append(SetOf())
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS" | "ADDITEMS":
                items = above_mark()
                stack[-1].extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = above_mark()
                stack.append(set_items({}, items))
            case "SETITEM":
                items = [stack.pop(-2), stack.pop()]
                set_items(stack[-1], items)
            case "SETITEMS":
                items = above_mark()
                set_items(stack[-1], items)
            case "GLOBAL":
                stack.append(names(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, attribute = stack.pop(-2), stack.pop()
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise ValueError("a name that is not text")
                stack.append(names(f"{module}.{attribute}"))
            case "REDUCE" | "NEWOBJ":
                function, args = stack.pop(-2), stack.pop()
                if not isinstance(function, Stand) or not isinstance(args, tuple):
                    raise RefusedError("the making of an object")
                if args and not calls:
                    raise RefusedError("the making of an object with arguments")
                stack.append(function(*args))
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            case "BINPERSID" if persistent is not None:
                stack.append(persistent(stack.pop()))
            case "INST":
                raise RefusedError(argument.replace(" ", ".")[:200])
            case other:
                raise RefusedError(f"the pickle opcode {other}")
    return stack.pop()


def set_items(into: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """Put keys and values, one after the other, into a dict."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        # a tuple of shared tuples takes forever to hash
        if key is not None and not isinstance(key, (str, int, float)):
            raise RefusedError("a key that is neither text nor a number")
        into[key] = value
    return into


def _limited(steps: Iterable[tuple[Any, Any, Any]]) -> Iterator[tuple[Any, Any, Any]]:
    for count, step in enumerate(steps):
        if count > MAX_VALUES:
            raise ValueError("too many values")
        yield step


def _build(value: Any, state: Any) -> None:
    if isinstance(value, Stand):
        raise RefusedError("changing a function's state")
    if hasattr(value, "build"):
        value.build(state)  # of a dict, it is whether a CfgNode is frozen, and the like
