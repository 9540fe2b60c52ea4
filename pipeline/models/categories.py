"""What models can tell apart: the COCO tables, and the names of a custom model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, did_you_mean
from pipeline.models.class_names import CocoRows, category_id, class_texts, read_names
from pipeline.models.zoo import literals
from pipeline.records import Categories

TABLES = ("coco", "coco_panoptic", "coco_person", "coco_stuff")
_TABLE_DATASETS = {  # whose classes are in coco.json
    "coco_panoptic": r"coco_\w+_panoptic_separated",
    "coco_stuff": r"coco_\w+_panoptic_stuffonly",
    "coco_person": r"keypoints_coco_",
    "coco": r"coco_\d+_(?!.*panoptic)|lvis_\S+_cocofied",
}


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


def of_dataset(name: str) -> Categories | None:
    """Return the categories of a data set that the zoo's models are trained on.

    The names are those of Detectron2's ``MetadataCatalog``, read without importing it.

    Args:
        name: As in ``DATASETS.TRAIN``, such as ``lvis_v1_train``.
    """
    for kind, pattern in _TABLE_DATASETS.items():
        if re.match(pattern, name):
            return table(kind)
    if name.startswith("voc_"):
        found = literals("data/datasets/pascal_voc.py", "CLASS_NAMES")
        return Categories(thing_names=tuple(found["CLASS_NAMES"]))
    if name.startswith("cityscapes_fine_instance_seg"):
        rows = literals("data/datasets/builtin_meta.py", "CITYSCAPES_CATEGORIES")
        things = [row for row in rows["CITYSCAPES_CATEGORIES"] if row["isthing"]]
        return Categories(thing_names=tuple(row["name"] for row in things))
    if lvis := re.match(r"lvis_(v1|v0\.5)_", name):
        module = f"data/datasets/lvis_{lvis[1].replace('.', '_')}_categories.py"
        by_id = sorted(literals(module, "LVIS_CATEGORIES")["LVIS_CATEGORIES"], key=itemgetter("id"))
        return Categories(thing_names=tuple(row["synonyms"][0] for row in by_id))
    return None


def named(
    class_names: Any,
    *,
    semantic: bool = False,
    n_things: int | None = None,
    n_stuff: int | None = None,
) -> Categories:
    """Return the categories that a user names.

    Args:
        class_names: A list of names by class id; a mapping of the data set's ids to names, taken in
            the order of the ids; or the path of a file: text with a name per line, or ``.json`` or
            ``.yaml`` with such a list or mapping, alone or under ``names``; what
            ``MetadataCatalog.get(...).as_dict()`` says; or a COCO file, whose ``categories`` are
            taken in the order of their ids, as Detectron2 does.
        semantic: All names are stuff, because the model has no instances.
        n_things: Number of instance classes that the model has, if it is known.
        n_stuff: Number of stuff classes that the model has, if it is known.

    Raises:
        ConfigError: The file cannot be read, or a name is missing, not text, empty or duplicate.
    """
    where, given = "class_names", class_names
    if isinstance(given, str):
        where = f"class_names: '{given}'"
        given = read_names(given)
        if isinstance(given, dict) and {"thing_classes", "stuff_classes"} & set(given):
            return _checked(lambda: from_metadata(given), where)
        if isinstance(given, dict) and isinstance(given.get("categories"), list):
            given = given["categories"]
        elif isinstance(given, dict) and isinstance(given.get("names"), (list, dict)):
            given = given["names"]
        if isinstance(given, list) and any(isinstance(row, dict) for row in given):
            rows = CocoRows(given, where)
            return _checked(lambda: rows.categories(semantic, n_things, n_stuff), where)
    ids: tuple[int, ...] = ()
    if isinstance(given, Mapping):
        by_id = sorted((category_id(key, where), value) for key, value in given.items())
        ids, given = tuple(key for key, _ in by_id), [value for _, value in by_id]
    elif isinstance(given, (str, bytes, set, frozenset)) or not isinstance(given, Iterable):
        raise ConfigError(
            f"{where} is {given!r:.60}; give a list, [cat,dog], a mapping, {{0: cat, 1: dog}}, or "
            "a file"
        )
    names = class_texts(list(given), where)
    if semantic:
        return _checked(lambda: Categories(stuff_names=names, stuff_ids=ids), where)
    return _checked(lambda: Categories(thing_names=names, thing_ids=ids), where)


def from_metadata(metadata: Mapping[str, Any]) -> Categories:
    """Return the categories that a data set's metadata in Detectron2 names.

    Args:
        metadata: ``MetadataCatalog.get(...).as_dict()``, or the same read from JSON.

    Raises:
        ConfigError: A name is not text.
        Exception: It is something else; any kind.
    """
    fields: dict[str, Any] = {}
    for kind in ("thing", "stuff"):
        names = class_texts(metadata.get(f"{kind}_classes") or (), f"{kind}_classes")
        by_id = metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}
        ids = {int(class_id): int(id_) for id_, class_id in by_id.items()}
        fields[f"{kind}_names"] = names
        # a data set's own ids only if every class has one
        if set(range(len(names))) <= set(ids):
            fields[f"{kind}_ids"] = tuple(ids[i] for i in range(len(names)))
    points = class_texts(metadata.get("keypoint_names") or (), "keypoint_names")
    rules = metadata.get("keypoint_connection_rules") or ()
    return Categories(
        **fields,
        keypoint_names=points,
        skeleton=tuple((points.index(a), points.index(b)) for a, b, *_ in rules if points),
    )


def _checked(make: Callable[[], Categories], where: str) -> Categories:
    """Make categories of what a user gave, and refuse those that cannot be told apart."""
    try:
        categories = make()
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as exc:
        raise ConfigError(f"{where}: {exc}") from exc
    if not categories.thing_names and not categories.stuff_names:
        raise ConfigError(f"{where} has no names")
    for names in (categories.thing_names, categories.stuff_names, categories.keypoint_names):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ConfigError(
                f"{where} has a name twice: {', '.join(twice[:10])}; rename one, or give all names "
                "by class id: 'model.class_names=[cat,dog]'"
            )
    return categories
