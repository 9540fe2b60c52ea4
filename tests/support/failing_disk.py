"""A disk that fails at one kind of operation, in a run that is forked."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from file_layer import Layer


def arm(out: Path, pattern: str, operation: str, error: int, at: int, once: bool) -> None:
    """From the ``at``-th time on an operation fails, or only then."""
    seen, sought = 0, re.compile(pattern)

    def before(name: str, path: str) -> None:
        nonlocal seen
        if name == operation and sought.match(path):
            seen += 1
            if seen == at or (seen > at and not once):
                mark(out)
                raise OSError(error, os.strerror(error), path)

    Layer(out, before).install()


def mark(out: Path) -> None:
    with suppress(FileExistsError):  # a link takes no descriptor
        out.with_suffix(".failed").symlink_to("failed")


def failed(out: Path) -> bool:
    return out.with_suffix(".failed").is_symlink()
