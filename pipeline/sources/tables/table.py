"""A list of images with further columns, in little memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError, did_you_mean

PATH = "path"


@dataclass(frozen=True, slots=True)
class Row:
    """The values of one row.

    Attributes:
        names: Names of the columns.
        values: Their values, a list in JSON.
    """

    names: tuple[str, ...]
    values: str

    def columns(self) -> dict[str, Any]:
        """Return the values by name."""
        return dict(zip(self.names, json.loads(self.values), strict=True))


@dataclass(slots=True)
class Table:
    """The rows of a table.

    Attributes:
        names: Names of the columns other than ``path``, in order.
        paths: The path in each row.
        rows: The other values of each row as JSON, because Python objects would take several
            times the memory; empty without such columns.
    """

    names: tuple[str, ...] = ()
    paths: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)

    def add(self, path: str, values: Iterable[Any]) -> None:
        """Append a row; ``values`` are those of ``names``."""
        self.paths.append(path)
        if self.names:
            self.rows.append(json.dumps(list(values)))


def check_names(names: Sequence[str], table: str) -> None:
    """Check the names of the columns of a table; empty ones are allowed.

    Raises:
        ConfigError: There is no column ``path``, or several have the same name.
    """
    if PATH not in names:
        raise ConfigError(
            f"input: the table {table} has no column 'path'"
            + (did_you_mean(PATH, names) or "; it is empty")
        )
    if twice := [name for name, n in Counter(names).items() if name and n > 1]:
        raise ConfigError(
            f"input: the table {table} has several columns '{twice[0]}': give each its own name"
        )
