"""Compares paths: one spelling per file, and the origin that identifies an input."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.job import inputs_of
from pipeline.system.files import expanded

_ODD = re.compile(r"/\.{0,2}(?=/|\Z)")  # an empty part, `.` or `..`
UNRESOLVED = "/.."  # what remains of a path that the operating system cannot follow


def plain_path(path: str) -> str:
    """Normalize an absolute path: remove ``//``, ``.`` and ``..``.

    ``..`` leads up from the directory that the path really reaches, as in the operating system.
    From the text alone, ``link/../a.jpg`` would become another file. Other links are not resolved,
    so two names of a file stay distinct. A path through something that is not a directory keeps
    ``..``, so it never equals the path of an existing file.
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
    """Return a path with links resolved, as far as it exists."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # the path contains a NUL
        return os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118


@dataclass(frozen=True, slots=True)
class Origin:
    """Identifies an input, however it is spelled.

    Attributes:
        path: The file, directory or list, or the directory of a glob, with links resolved; ``-``
            for standard input.
        pattern: The part of a glob below that directory.
        cwd: The working directory, if entries of a list are relative to it.
    """

    path: str
    pattern: str = ""
    cwd: str | None = None

    def __str__(self) -> str:
        text = os.path.join(self.path, self.pattern) if self.pattern else self.path  # noqa: PTH118
        return f"{text} (with paths relative to {self.cwd})" if self.cwd else text

    def matches(self, other: Origin) -> bool:
        """Return whether both are the same input; a list may gain its first relative path."""
        same = (self.path, self.pattern) == (other.path, other.pattern)
        return same and (None in (self.cwd, other.cwd) or self.cwd == other.cwd)

    def as_json(self) -> dict[str, Any]:
        """Return the origin as plain values."""
        return asdict(self)


def distinct_tails(paths: Iterable[str]) -> dict[str, str]:
    """Shorten paths to their last parts, so that no result equals or contains another.

    ``/a/day`` and ``/b/day`` become ``a/day`` and ``b/day``; ``/a/x`` and ``/b/y`` become ``x`` and
    ``y``. The order of the paths does not matter.
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


def refuse_input_in(
    output: Path, given: str | list[str] | None, outputs: Iterable[str] = ()
) -> None:
    """Refuse an input that is the output, or in a directory where results are written and removed.

    Args:
        output: The output directory.
        given: The inputs.
        outputs: Names in the output that sinks own, directories with a trailing ``/``.

    Raises:
        ConfigError: The input is there.
    """
    directories = [name for name in outputs if name.endswith("/")]
    for source in inputs_of(given):
        if source == "-":
            continue
        real, place = (Path(real_path(p)) for p in (expanded(source), output))
        if real == place:
            raise ConfigError(
                f"output is the input {output}, so results would become inputs; choose another "
                "output"
            )
        for name in directories:
            if real.is_relative_to(place / name):
                raise ConfigError(
                    f"the input {source} is in {name} of the output {output}, where results are "
                    "written and removed; choose another output"
                )
