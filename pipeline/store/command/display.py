"""Prints the results of the store's commands: tables, JSON or YAML."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from pipeline.errors import escaped, printable
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.disk.plain import json_value
from pipeline.store.disk.pointers import resolve_version, versions_in

OUTPUTS = ("table", "json", "yaml", "path")


def make_details(model: StoredModel) -> dict[str, Any]:
    """Return the description of a model: first the keys of BentoML, then those that only d2run has.

    The values are plain; metadata can have dates and bytes.
    """
    return model.info.to_dict() | {"path": str(model.path)}


def make_rows(store: ModelStore, models: Sequence[StoredModel]) -> list[dict[str, Any]]:
    """Return one row of plain values per model."""
    aliases: dict[str, list[str]] = {}
    for name in dict.fromkeys(model.info["name"] for model in models):
        home = store.root / name
        if not versions_in(home):  # the model comes with d2run
            home = next(model.path.parent for model in models if model.info["name"] == name)
        aliases.setdefault(f"{name}:{resolve_version(name, home)}", []).append("latest")
        for alias, version in store.aliases(name).items():
            aliases.setdefault(f"{name}:{version}", []).append(alias)
    return [
        {
            "tag": str(model.tag),
            "module": model.info["module"],
            "aliases": aliases.get(model.tag, []),
            "kind": model.info["kind"],
            "labels": model.info["labels"],
            "size": model.size,
            "creation_time": model.info["created"],
            "created": model.info["created"],
            "path": str(model.path),
        }
        for model in models
    ]


def show(rows: Any, output: str) -> None:
    """Print rows, or any plain values as JSON or YAML, with control characters escaped."""
    if output == "json":
        # DEL is the only control character that json does not escape
        text = json.dumps(json_value(rows), indent=2, allow_nan=False)
        print(text.replace("\x7f", "\\u007f"))
    elif output == "yaml":
        text = yaml.dump(rows, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        print("\n".join(map(escaped, text.split("\n"))), end="")
    elif output == "path":
        for row in rows:  # unescaped, because programs open the paths
            print(printable(row["path"]) if sys.stdout.isatty() else row["path"])
    else:
        _table(rows)


class _Dumper(yaml.SafeDumper):
    """Writes text with control characters in double quotes, where YAML has escapes."""

    def represent_text(self, text: str) -> Any:
        """Return the node for a text."""
        style = None if text.replace("\n", "").isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _table(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("tag", "aliases", "labels", "size", "created"):
        table.add_column(column, no_wrap=column != "labels", justify="left")
    for row in rows:
        labels = ", ".join(f"{key}={value}" for key, value in row["labels"].items())
        created = row["created"][:16].replace("T", " ")
        cells = (row["tag"], ", ".join(row["aliases"]), labels, format_size(row["size"]), created)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    terminal = sys.stdout.isatty()
    # a pipe has no width, and a truncated tag is useless
    width = shutil.get_terminal_size().columns if terminal else 1000
    # not directly to the terminal, because rich exits differently if the pipe is closed
    text = io.StringIO()
    Console(file=text, force_terminal=terminal, width=width).print(table)
    print(text.getvalue(), end="")


def format_size(n_bytes: int) -> str:
    """Return a size with its unit, for example ``1.2 MB``."""
    value, units = float(n_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if value >= 9.95 else f"{value:.1f} {units[0]}"
