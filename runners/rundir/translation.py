"""Translates errors of the file system to ``OutputError``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import OutputError


@contextmanager
def output_errors(output: Path) -> Iterator[None]:
    """Raise ``OutputError`` for an ``OSError`` raised in the block.

    Args:
        output: Named in the message if the error has no file name.
    """
    try:
        yield
    except OSError as exc:
        where = exc.filename or output
        raise OutputError(f"cannot write the output {where}: {exc.strerror or exc}") from exc
