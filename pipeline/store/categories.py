"""What models can tell apart: the COCO tables, and the names of a model of one's own."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, did_you_mean
from pipeline.types import Categories

TABLES = ("coco", "coco_panoptic", "coco_person", "coco_stuff")


def table(name: str) -> Categories:
    """Return a built-in table.

    ``coco``: the 80 things. ``coco_person``: person and its 17 keypoints. ``coco_stuff``: 53 stuff
    classes after class 0, "things". ``coco_panoptic``: things and stuff.

    The names, ids and skeleton are Detectron2's (``detectron2/data/datasets/builtin_meta.py``).

    Raises:
        ConfigError: There is no such table.
    """
    if name not in TABLES:
        raise ConfigError(f"no table of categories '{name}'{did_you_mean(name, TABLES)}")
    coco = _coco()
    person = name == "coco_person"
    things = coco["things"] if name in ("coco", "coco_panoptic") else []
    things = [[1, "person"]] if person else things
    stuff = coco["stuff"] if name in ("coco_stuff", "coco_panoptic") else []
    return Categories(
        thing_names=tuple(label for _, label in things),
        thing_ids=tuple(number for number, _ in things),
        stuff_names=tuple(label for _, label in stuff),
        stuff_ids=tuple(number for number, _ in stuff),
        keypoint_names=tuple(coco["keypoints"]) if person else (),
        skeleton=tuple((a, b) for a, b in coco["skeleton"]) if person else (),
    )


@cache
def _coco() -> dict[str, Any]:
    text = Path(__file__).with_name("coco.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def named(class_names: Sequence[str] | str, *, semantic: bool = False) -> Categories:
    """Return the categories that a user names.

    Args:
        class_names: Names by class id, or the path of a text file with a name a line, or of a
            ``.json``: a list of names, what ``MetadataCatalog.get(...).as_dict()`` says, or a COCO
            file, whose ``categories`` are taken in the order of their ids, as Detectron2 does.
            Those with ``isthing: 0`` are stuff; class 0 of the stuff is then "things", as in
            Detectron2's separated panoptic data sets.
        semantic: A plain list names stuff, because the model has no instances.

    Raises:
        ConfigError: The file cannot be read, or a name is missing, empty or there twice.
    """
    if isinstance(class_names, str):
        path = Path(os.path.expanduser(class_names))  # noqa: PTH111 - that of Path raises
        text = _text(path)
        if path.suffix.lower() == ".json":
            data = _json(text, path)
            if isinstance(data, dict):
                return _from_mapping(data, path)
            class_names = data
        else:
            class_names = [line.strip() for line in text.splitlines() if line.strip()]
    names = tuple(str(name) for name in class_names)
    _distinct(names, "class_names")
    return Categories(stuff_names=names) if semantic else Categories(thing_names=names)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"class_names: cannot read '{path}' ({reason}); give a text file with a name a line, "
            "a COCO .json, or the names themselves: 'model.class_names=[cat,dog]'"
        ) from exc


def _json(text: str, path: Path) -> Any:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"class_names: '{path}' is not JSON ({exc})") from exc
    if not isinstance(data, (dict, list)) or not all(isinstance(item, str) for item in data):
        raise ConfigError(
            f"class_names: '{path}' is neither a COCO file, nor a data set's metadata, nor a list "
            "of names"
        )
    return data


def _from_mapping(data: dict[str, Any], path: Path) -> Categories:
    if "thing_classes" not in data and "stuff_classes" not in data:
        return _from_coco(data, path)
    try:
        categories = from_metadata(data)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigError(
            f"class_names: '{path}' is not what MetadataCatalog.get(...).as_dict() says "
            f"({type(exc).__name__}: {exc})"
        ) from exc
    _distinct(categories.thing_names + categories.stuff_names, f"class_names: '{path}'")
    return categories


def from_metadata(metadata: Mapping[str, Any]) -> Categories:
    """Return the categories that a data set's metadata in Detectron2 names.

    Args:
        metadata: ``MetadataCatalog.get(...).as_dict()``, or the same read from JSON.
    """
    fields: dict[str, Any] = {}
    for kind in ("thing", "stuff"):
        names = tuple(str(name) for name in metadata.get(f"{kind}_classes") or ())
        by_id = metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}
        ids = {int(class_id): int(id_) for id_, class_id in by_id.items()}
        fields[f"{kind}_names"] = names
        # a data set's own ids only if every class has one
        if set(range(len(names))) <= set(ids):
            fields[f"{kind}_ids"] = tuple(ids[i] for i in range(len(names)))
    points = tuple(str(name) for name in metadata.get("keypoint_names") or ())
    rules = metadata.get("keypoint_connection_rules") or ()
    return Categories(
        **fields,
        keypoint_names=points,
        skeleton=tuple((points.index(a), points.index(b)) for a, b, *_ in rules if points),
    )


def _from_coco(data: dict[str, Any], path: Path) -> Categories:
    try:
        rows = sorted(data["categories"], key=lambda row: row["id"])
        things = [row for row in rows if row.get("isthing", 1)]
        stuff = [row for row in rows if not row.get("isthing", 1)]
        if stuff:
            stuff.insert(0, {"id": 0, "name": "things"})
        posed = things[0] if len(things) == 1 and things[0].get("keypoints") else {}
        categories = Categories(
            thing_names=tuple(str(row["name"]) for row in things),
            thing_ids=tuple(int(row["id"]) for row in things),
            stuff_names=tuple(str(row["name"]) for row in stuff),
            stuff_ids=tuple(int(row["id"]) for row in stuff),
            keypoint_names=tuple(posed.get("keypoints", ())),
            # COCO counts keypoints from 1
            skeleton=tuple((a - 1, b - 1) for a, b in posed.get("skeleton", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ConfigError(
            f"class_names: '{path}' is not a COCO file whose categories have a name and an id of "
            f"their own ({type(exc).__name__}: {exc})"
        ) from exc
    where = f"class_names: '{path}'"
    _distinct(categories.thing_names + categories.stuff_names, where)
    return categories


def _distinct(names: tuple[str, ...], where: str) -> None:
    if not names or not all(names):
        raise ConfigError(f"{where} has {'an empty name' if names else 'no names'}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"{where} has a name twice: {', '.join(twice[:10])}")
