"""Prints lines to the terminal: escaped, without secrets, and no wider than the terminal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from textwrap import TextWrapper
from typing import TextIO

from pipeline.redaction import safe_text

_MIN_WIDTH = 20
_COLORS = {"error:": "\x1b[1;31m", "warning:": "\x1b[33m"}
_RESET = "\x1b[0m"
_SPACE = "\0"  # in place of a space that no line may break at; safe_text leaves no NUL


def print_stderr(text: str, *, unbroken: Sequence[str] = ()) -> None:
    """Print a message on standard error.

    Args:
        text: The message.
        unbroken: Parts of it that stay on one line, such as file names.
    """
    _print(text, sys.stderr, unbroken)


def print_stdout(text: str, *, unbroken: Sequence[str] = ()) -> None:
    """Print a message on standard output; arguments as for ``print_stderr``."""
    _print(text, sys.stdout, unbroken)


def quiet_logger(name: str) -> None:
    """Keep a library's log messages off the terminal, except for errors."""
    logger = logging.getLogger(name)
    logger.propagate = True
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:  # the library's own; others are someone else's
            handler.setLevel(logging.ERROR)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether the stream is shown on a terminal."""
    return stream is not None and stream.isatty()


def width_of(stream: TextIO | None) -> int | None:
    """Return the width of a terminal in columns, ``None`` if the stream is none."""
    if stream is None or not is_terminal(stream):
        return None
    try:
        columns = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return max(columns or 80, _MIN_WIDTH)


def wrapped(text: str, width: int | None, unbroken: Sequence[str] = ()) -> list[str]:
    """Break text into lines at spaces; words and ``unbroken`` parts stay whole, however long.

    Args:
        text: One line of text, as ``safe_text`` returns it.
        width: In columns; ``None`` leaves the text as it is.
        unbroken: Parts of the text that may contain spaces.
    """
    if width is None or len(text) <= width:
        return [text]
    for part in unbroken:
        text = text.replace(safe_text(part), safe_text(part).replace(" ", _SPACE))
    wrapper = TextWrapper(
        width,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return [line.replace(_SPACE, " ") for line in wrapper.wrap(text)]


def _print(text: str, stream: TextIO | None, unbroken: Sequence[str]) -> None:
    if stream is None:  # closed before the program started
        return
    text = "\n".join(wrapped(safe_text(text), width_of(stream), unbroken))
    if is_terminal(stream) and not os.environ.get("NO_COLOR"):
        text = _colored(text)
    print(text, file=stream, flush=True)


def _colored(text: str) -> str:
    prefix = text.partition(" ")[0]
    color = _COLORS.get(prefix)
    return f"{color}{prefix}{_RESET}{text.removeprefix(prefix)}" if color else text
