"""A small pickle interpreter for plain values, which calls only the functions its caller allows.

A few bytes can make ``pickle`` hang or use all memory: a key whose hash takes an hour, a length of
gigabytes, a huge memo index. This interpreter hashes only text and numbers, allocates no more than
the file contains, and counts the steps.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

MAX_VALUES = 1_000_000  # a few bytes can double a value thirty times
_MAX_BITS = 4096  # per number; Python prints at most 4,300 digits

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
# Opcodes that plain values of protocol 2 and later do not need.
_OLD_NUMBERS = {"INT", "LONG", "FLOAT"}
_OLD_TEXTS = {"STRING", "UNICODE", "BINSTRING", "SHORT_BINSTRING"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CALLING = {"REDUCE", "BINPERSID", "GET", "PUT", "DICT", "LIST", "POP", "POP_MARK"}
_ONLY_WITH_CALLS = _OLD_NUMBERS | _OLD_TEXTS | _BYTES | _CALLING


class RefusedError(Exception):
    """The pickle requires something that is not allowed."""


class Placeholder:
    """A callable in place of an object that a pickle names; the pickle cannot change it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        """Return the placeholder of the object that the pickle constructs."""
        return self._call(*args)


class SetPlaceholder(list[Any]):
    """In place of a set; its items are not hashed."""


def interpret(
    stream: IO[bytes],
    names: Callable[[str], Any],
    *,
    calls: bool = False,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Interpret the opcodes of a pickle like ``pickle`` does, up to its end.

    Args:
        stream: The pickle; bytes after its end are not read.
        names: Returns the placeholder for ``module.name``, or raises RefusedError.
        calls: Whether placeholders can be called with arguments and every protocol is read.
        persistent: Returns the placeholder for a persistent id.

    Raises:
        RefusedError: The pickle requires something else.
        Exception: The pickle is damaged; any type.
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
                stack.append(SetPlaceholder())
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
                if not isinstance(function, Placeholder) or not isinstance(args, tuple):
                    raise RefusedError("construction of an object")
                if args and not calls:
                    raise RefusedError("construction of an object with arguments")
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
    """Set alternating keys and values in a dict."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        # hashing a tuple of shared tuples can take forever
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
    if isinstance(value, Placeholder):
        raise RefusedError("a change of a function's state")
    if hasattr(value, "build"):
        value.build(state)  # the state of a dict, such as a frozen CfgNode, is ignored
