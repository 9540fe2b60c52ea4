"""What the store's commands print: tables and sentences for people, JSON and YAML for programs."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from pipeline.errors import escaped, printable
from pipeline.redaction import redacted_text
from pipeline.store.disk.entry import StoredModel
from pipeline.store.disk.local import ModelStore
from pipeline.store.disk.pointers import meant_by, versions_in

OUTPUTS = ("table", "json", "yaml", "path")


def rows_of(store: ModelStore, entries: Sequence[StoredModel]) -> list[dict[str, Any]]:
    """Return what a list says of models, in plain values."""
    found = []
    also: dict[str, list[str]] = {}
    for name in dict.fromkeys(entry.info["name"] for entry in entries):
        home = store.root / name
        if not versions_in(home):  # it comes with d2run
            home = next(entry.path.parent for entry in entries if entry.info["name"] == name)
        also.setdefault(f"{name}:{meant_by(name, home)}", []).append("latest")
        for alias, version in store.aliases(name).items():
            also.setdefault(f"{name}:{version}", []).append(alias)
    for entry in entries:
        found.append(
            {
                "tag": str(entry.tag),
                "aliases": also.get(entry.tag, []),
                "kind": entry.info["kind"],
                "labels": entry.info["labels"],
                "size": entry.size,
                "created": entry.info["created"],
                "path": str(entry.path),
            }
        )
    return found


def show(rows: Any, output: str) -> None:
    """Print rows, or any plain values as JSON or YAML; what a terminal would obey is escaped."""
    if output == "json":
        # DEL is the only control character that json leaves as it is
        print(json.dumps(rows, indent=2).replace("\x7f", "\\u007f"))
    elif output == "yaml":
        text = yaml.dump(rows, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        print("\n".join(map(escaped, text.split("\n"))), end="")
    elif output == "path":
        for row in rows:  # for a program to open, as it is
            print(printable(row["path"]) if sys.stdout.isatty() else row["path"])
    else:
        _table(rows)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes texts that have something to escape between double quotes, where YAML has escapes."""

    def represent_text(self, text: str) -> Any:
        """Return the node of a text."""
        style = None if text.replace("\n", "").isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _table(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("tag", "also", "labels", "size", "created"):
        table.add_column(column, no_wrap=column != "labels", justify="left")
    for row in rows:
        labels = ", ".join(f"{key}={value}" for key, value in row["labels"].items())
        created = row["created"][:16].replace("T", " ")
        cells = (row["tag"], ", ".join(row["aliases"]), labels, size(row["size"]), created)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    terminal = sys.stdout.isatty()
    # a pipe has no width, and a tag that is cut names nothing
    width = shutil.get_terminal_size().columns if terminal else 1000
    # not straight to the terminal, as rich exits in its own way when the reader has gone
    text = io.StringIO()
    Console(file=text, force_terminal=terminal, width=width).print(table)
    print(text.getvalue(), end="")


def size(n_bytes: int) -> str:
    """Return a size as people write it."""
    value, units = float(n_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if value >= 9.95 else f"{value:.1f} {units[0]}"


def tell(text: str) -> None:
    """Print one line on standard output."""
    print(printable(redacted_text(text)))


def say(text: str) -> None:
    """Print one line on standard error."""
    print(printable(redacted_text(text)), file=sys.stderr)
