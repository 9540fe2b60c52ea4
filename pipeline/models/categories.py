"""The classes of models: built-in COCO tables, the zoo's datasets, and given class names."""

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
_TABLE_DATASETS = {  # datasets whose classes are in coco.json
    "coco_panoptic": r"coco_\w+_panoptic_separated",
    "coco_stuff": r"coco_\w+_panoptic_stuffonly",
    "coco_person": r"keypoints_coco_",
    "coco": r"coco_\d+_(?!.*panoptic)|lvis_\S+_cocofied",
}


def table(name: str) -> Categories:
    """Return a built-in table.

    ``coco``: the 80 thing classes. ``coco_person``: person and its 17 keypoints. ``coco_stuff``:
    class 0, "things", and 53 stuff classes. ``coco_panoptic``: things and stuff.

    The names, ids and skeleton are Detectron2's (``detectron2/data/datasets/builtin_meta.py``).

    Raises:
        ConfigError: There is no such table.
    """
    if name not in TABLES:
        raise ConfigError(f"model.categories: no table '{name}'{did_you_mean(name, TABLES)}")
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


def dataset_categories(name: str) -> Categories | None:
    """Return the categories of a dataset that zoo models are trained on, if it is known.

    The names are those of Detectron2's ``MetadataCatalog``, read without importing it.

    Args:
        name: A name as in ``DATASETS.TRAIN``, for example ``lvis_v1_train``.
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


def parse_class_names(
    class_names: Any,
    *,
    semantic: bool = False,
    n_things: int | None = None,
    n_stuff: int | None = None,
) -> Categories:
    """Return the categories for given class names.

    Args:
        class_names: A list of names by class id; a mapping from the dataset's ids to names, sorted
            by id; or the path of a file. Files are text with one name per line; ``.json`` or
            ``.yaml`` with such a list or mapping, at the top level or under ``names``; the output
            of ``MetadataCatalog.get(...).as_dict()``; or a COCO file, whose ``categories`` are
            sorted by id, as in Detectron2.
        semantic: All names are stuff, because the model has no instances.
        n_things: Number of instance classes of the model, if known.
        n_stuff: Number of stuff classes of the model, if known.

    Raises:
        ConfigError: The file cannot be read, or a name is missing, not text, empty or duplicate.
    """
    where, given = "class_names", class_names
    if isinstance(given, str):
        where = f"class_names: '{given}'"
        given = read_names(given)
        if isinstance(given, dict) and {"thing_classes", "stuff_classes"} & set(given):
            return _build(lambda: from_metadata(given), where)
        if isinstance(given, dict) and isinstance(given.get("categories"), list):
            given = given["categories"]
        elif isinstance(given, dict) and isinstance(given.get("names"), (list, dict)):
            given = given["names"]
        if isinstance(given, list) and any(isinstance(row, dict) for row in given):
            rows = CocoRows(given, where)
            return _build(lambda: rows.categories(semantic, n_things, n_stuff), where)
    ids: tuple[int, ...] = ()
    if isinstance(given, Mapping):
        by_id = sorted((category_id(key, where), value) for key, value in given.items())
        ids, given = tuple(key for key, _ in by_id), [value for _, value in by_id]
    elif isinstance(given, (str, bytes, set, frozenset)) or not isinstance(given, Iterable):
        raise ConfigError(
            f"{where}: expected a list, [cat,dog], a mapping, {{0: cat, 1: dog}}, or a file, got "
            f"{given!r:.60}"
        )
    names = class_texts(list(given), where)
    if semantic:
        return _build(lambda: Categories(stuff_names=names, stuff_ids=ids), where)
    return _build(lambda: Categories(thing_names=names, thing_ids=ids), where)


def from_metadata(metadata: Mapping[str, Any]) -> Categories:
    """Return the categories in the metadata of a Detectron2 dataset.

    Args:
        metadata: ``MetadataCatalog.get(...).as_dict()``, possibly read from JSON.

    Raises:
        ConfigError: A name is not text.
        Exception: The metadata has another structure; any type.
    """
    fields: dict[str, Any] = {}
    for kind in ("thing", "stuff"):
        names = class_texts(metadata.get(f"{kind}_classes") or (), f"{kind}_classes")
        by_id = metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}
        ids = {int(class_id): int(id_) for id_, class_id in by_id.items()}
        fields[f"{kind}_names"] = names
        # the dataset's ids are used only if every class has one
        if set(range(len(names))) <= set(ids):
            fields[f"{kind}_ids"] = tuple(ids[i] for i in range(len(names)))
    points = class_texts(metadata.get("keypoint_names") or (), "keypoint_names")
    rules = metadata.get("keypoint_connection_rules") or ()
    return Categories(
        **fields,
        keypoint_names=points,
        skeleton=tuple((points.index(a), points.index(b)) for a, b, *_ in rules if points),
    )


def _build(build: Callable[[], Categories], where: str) -> Categories:
    """Build categories from user input, and reject empty and duplicate names."""
    try:
        categories = build()
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as exc:
        raise ConfigError(f"{where}: {exc}") from exc
    if not categories.thing_names and not categories.stuff_names:
        raise ConfigError(f"{where} is empty; give at least one name")
    for names in (categories.thing_names, categories.stuff_names, categories.keypoint_names):
        if duplicates := [name for name, count in Counter(names).items() if count > 1]:
            raise ConfigError(
                f"{where} has duplicate names: {', '.join(duplicates[:10])}; rename one, or list "
                "all names by class id: 'model.class_names=[cat,dog]'"
            )
    return categories
