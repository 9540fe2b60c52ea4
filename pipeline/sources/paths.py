"""Paths that are compared: one spelling per file name, and what tells one input from another."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_ODD = re.compile(r"/\.{0,2}(?=/|\Z)")  # an empty part, `.` or `..`
UNRESOLVED = "/.."  # remains where the operating system cannot follow a path


def plain_path(path: str) -> str:
    """Return the one spelling of an absolute path: without ``//``, ``.`` and ``..``.

    ``..`` leads up from the folder that the path has really reached, as in the operating system:
    of ``link/../a.jpg`` the text alone would give another file. Links are not resolved otherwise,
    so two names of a file stay two. Where a path leads through something that is not a folder it
    keeps a ``..``, and so it equals no path of an existing file.
    """
    if not _ODD.search(path):
        return path
    plain = ""
    for part in path.split("/"):
        if part not in ("", ".", ".."):
            plain += f"/{part}"
        elif part == "..":
            plain = _parent(plain)
    return plain or "/"


def _parent(path: str) -> str:
    if not path:
        return ""
    try:
        real = os.path.realpath(path, strict=True)
        if os.path.isdir(real):  # noqa: PTH112
            return os.path.dirname(real).rstrip("/")  # noqa: PTH120
    except (OSError, ValueError):
        pass
    return path + UNRESOLVED


def real_path(path: str | Path) -> str:
    """Return a path with all links resolved; of what does not exist, as far as it does."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # a NUL in it
        return os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118


@dataclass(frozen=True, slots=True)
class Origin:
    """What an input is, however it was spelled.

    Attributes:
        path: The file, folder or list, or the folder of a glob, links resolved; ``-`` for
            standard input.
        pattern: What a glob says below that folder.
        cwd: The working directory, if entries of a list are relative to it.
    """

    path: str
    pattern: str = ""
    cwd: str | None = None

    def __str__(self) -> str:
        text = os.path.join(self.path, self.pattern) if self.pattern else self.path  # noqa: PTH118
        return f"{text} (with paths relative to {self.cwd})" if self.cwd else text

    def matches(self, other: Origin) -> bool:
        """Return whether both are one input; a list may gain its first relative path."""
        same = (self.path, self.pattern) == (other.path, other.pattern)
        return same and (None in (self.cwd, other.cwd) or self.cwd == other.cwd)

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def distinct_tails(paths: Iterable[str]) -> dict[str, str]:
    """Return the shortest ends of these paths of which none equals or contains another.

    ``/a/day`` and ``/b/day`` give ``a/day`` and ``b/day``; ``/a/x`` and ``/b/y`` give ``x`` and
    ``y``. What one path has does not depend on the order of the others.
    """
    parts = {path: [part for part in path.split("/") if part] or ["_"] for path in paths}
    length = dict.fromkeys(parts, 1)
    while True:
        tails = {path: tuple(parts[path][-length[path] :]) for path in parts}
        growing = {
            path
            for path, tail in tails.items()
            for other, its in tails.items()
            if path != other and its[: len(tail)] == tail and length[path] < len(parts[path])
        }
        if not growing:
            return {path: "/".join(tail) for path, tail in tails.items()}
        for path in growing:
            length[path] += 1
