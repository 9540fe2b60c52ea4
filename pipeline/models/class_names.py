"""Reads class names: lists, mappings, text files, JSON, YAML and COCO files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.models.foreign import HEAD, describe
from pipeline.models.plain_yaml import load_yaml
from pipeline.records import Categories, name_problem
from pipeline.system.files import expanded, read_regular

_MAX_BYTES = 2 << 30  # a COCO file also has its annotations
_THINGS = "things"  # Detectron2's name for the stuff class of all instances
_KINDS = ((bool, "a boolean"), (type(None), "null"), (float, "a number"), (date, "a date"))


def class_texts(names: Iterable[Any], where: str) -> tuple[str, ...]:
    """Return names as text, stripped of surrounding spaces.

    Whole numbers are converted, for models of digits. Other values are rejected, because YAML only
    keeps the value: ``true`` could have been written as yes, on or True.

    Raises:
        ConfigError: A name is not text, is empty, or has control characters.
    """
    return tuple(_text(name, f"{where}: class name {i}") for i, name in enumerate(names))


def _text(name: Any, which: str) -> str:
    if isinstance(name, str):
        if problem := name_problem(name.strip()):
            raise ConfigError(f"{which}, {json.dumps(name)[:60]}, {problem}")
        return name.strip()
    if type(name) is int:
        return str(name)
    kind = next((text for type_, text in _KINDS if isinstance(name, type_)), None)
    if kind is None:
        raise ConfigError(f"{which}: expected text, got a {type(name).__name__}: {name!r:.60}")
    value = "" if name is None else f", {json.dumps(name, default=str)}"
    raise ConfigError(f"{which} is {kind}{value}; quote it, as in ['yes','no']")


def category_id(value: Any, where: str) -> int:
    """Return a category id, a whole number of at least 0.

    Raises:
        ConfigError: The value is something else.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if type(value) is int and 0 <= value < 1 << 63:
        return value
    raise ConfigError(
        f"{where}: expected a whole number of at least 0 as a category id, as in "
        f"{{0: cat, 1: dog}}, got {value!r:.60}"
    )


def read_names(file: str) -> Any:
    """Return the content of a file: the lines of text, or the values of JSON or YAML.

    Raises:
        ConfigError: The file cannot be read.
    """
    path = expanded(file)
    try:
        data = read_regular(path, _MAX_BYTES)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        if isinstance(exc, UnicodeDecodeError):
            reason = f"it is {describe(data[:HEAD]) or 'not UTF-8 text'}"
        raise ConfigError(
            f"class_names: cannot read '{file}': {reason}. Give a text file with one name per "
            "line, a COCO .json, or the names: 'model.class_names=[cat,dog]'"
        ) from exc
    if data and (what := describe(data[:HEAD])):
        raise ConfigError(f"class_names: '{file}' is {what}")
    suffix = path.suffix.lower()
    if suffix not in (".json", ".yaml", ".yml"):
        # not splitlines(), which also splits at other characters
        return [line.strip() for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    return _parsed(text, path, suffix)


def _parsed(text: str, path: Path, suffix: str) -> Any:
    kind = "JSON" if suffix == ".json" else "YAML"
    try:
        data = json.loads(text) if kind == "JSON" else load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise ConfigError(f"class_names: '{path}' is not valid {kind}: {reason}") from exc
    if not isinstance(data, (dict, list)):
        raise ConfigError(
            f"class_names: '{path}' has no names; expected a COCO file, a dataset's metadata, or a "
            "list or mapping of names"
        )
    return data


class CocoRows:
    """The ``categories`` of a COCO file, sorted by id.

    Args:
        rows: The list in the file.
        where: Name of the file for messages.

    Raises:
        ConfigError: A row has no name or no id, or an id is a duplicate.
    """

    def __init__(self, rows: Sequence[Any], where: str) -> None:
        found = []
        for row in rows:
            if not isinstance(row, dict) or not {"id", "name"} <= set(row):
                raise ConfigError(
                    f"{where} is not a COCO file: expected categories with an id and a name, got "
                    f"{json.dumps(row)[:80]}"
                )
            number = category_id(row["id"], where)
            name = _text(row["name"], f"{where}: the name of category {number}")
            found.append({**row, "id": number, "name": name})
        if duplicates := [i for i, n in Counter(row["id"] for row in found).items() if n > 1]:
            raise ConfigError(f"{where} has two categories with the id {duplicates[0]}")
        self._rows = sorted(found, key=lambda row: int(row["id"]))

    def categories(self, semantic: bool, n_things: int | None, n_stuff: int | None) -> Categories:
        """Return the categories. If a file has two interpretations, the one that fits is used.

        Args:
            semantic: All categories are stuff.
            n_things: Number of instance classes of the model, if known.
            n_stuff: Number of stuff classes of the model, if known.
        """
        stuff = [row for row in self._rows if row.get("isthing", 1) in (0, "0")]
        things = [row for row in self._rows if row not in stuff]
        if semantic:
            whole, separated = self._rows, self._with_things(stuff or things)
            # a file with things: as Detectron2 reads COCO's panoptic data for stuff-only models
            candidates = [separated, whole] if stuff and things else [whole, separated]
            things, stuff = [], _matching(candidates, n_stuff)
        else:
            things = _matching([things, _without_root(things)], n_things)
            stuff = self._with_things(stuff) if stuff else []
        things = _renamed_root(things)
        points, skeleton = _keypoints(things)
        return Categories(
            thing_names=tuple(row["name"] for row in things),
            thing_ids=tuple(row["id"] for row in things),
            stuff_names=tuple(row["name"] for row in stuff),
            stuff_ids=tuple(row["id"] for row in stuff),
            keypoint_names=points,
            skeleton=skeleton,
        )

    def _with_things(self, stuff: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Insert the class of all instances first, with an unused id."""
        if any(row["name"] == _THINGS for row in stuff):
            return stuff
        used = {row["id"] for row in self._rows}
        return [{"id": max(used) + 1 if 0 in used else 0, "name": _THINGS}, *stuff]


def _matching(candidates: list[list[dict[str, Any]]], n: int | None) -> list[dict[str, Any]]:
    return next((rows for rows in candidates if len(rows) == n), candidates[0])


def _is_root(rows: list[dict[str, Any]]) -> bool:
    """Return whether the first category is Roboflow's root, which has no annotations."""
    if len(rows) < 2 or str(rows[0].get("supercategory")).lower() != "none":
        return False
    return all(row.get("supercategory") == rows[0]["name"] for row in rows[1:])


def _without_root(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[1:] if _is_root(rows) else rows


def _renamed_root(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not _is_root(rows) or all(row["name"] != rows[0]["name"] for row in rows[1:]):
        return rows
    return [{**rows[0], "name": f"{rows[0]['name']} (root)"}, *rows[1:]]


def _keypoints(
    things: list[dict[str, Any]],
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Return the keypoint names and the skeleton if all categories with keypoints agree."""
    posed = [row for row in things if row.get("keypoints")]
    if not posed or any(row["keypoints"] != posed[0]["keypoints"] for row in posed):
        return (), ()
    names = class_texts(posed[0]["keypoints"], f"the keypoints of {posed[0]['name']}")
    pairs = [(int(a), int(b)) for a, b in posed[0].get("skeleton") or ()]
    first = 0 if any(0 in pair for pair in pairs) else 1  # COCO counts from 1, some tools from 0
    return names, tuple((a - first, b - first) for a, b in pairs)
