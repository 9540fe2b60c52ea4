"""The classes and keypoints of a model."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Categories:
    """The classes and keypoints that a model distinguishes.

    Attributes:
        thing_names: Names of the instance classes, by class id.
        thing_ids: Dataset ids of the things (1..90 for COCO), by class id; by default class id + 1.
        stuff_names: Names of the semantic classes, by class id.
        stuff_ids: Dataset ids of the stuff classes; by default class id + 1.
        keypoint_names: Names of the K keypoints.
        skeleton: Pairs of 0-based keypoint indices to join with a line.

    Raises:
        ValueError: A name cannot be written on one line of UTF-8, ids are missing, duplicate or
            negative, or the skeleton joins an unknown keypoint.
    """

    thing_names: tuple[str, ...] = ()
    thing_ids: tuple[int, ...] = ()
    stuff_names: tuple[str, ...] = ()
    stuff_ids: tuple[int, ...] = ()
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in (*self.thing_names, *self.stuff_names, *self.keypoint_names):
            if problem := name_problem(name):
                raise ValueError(f"the name {name!r:.60} {problem}")
        for names, ids in (("thing_names", "thing_ids"), ("stuff_names", "stuff_ids")):
            n = len(getattr(self, names))
            if not getattr(self, ids):  # a custom dataset
                object.__setattr__(self, ids, tuple(range(1, n + 1)))
            if len(getattr(self, ids)) != n:
                raise ValueError(f"Categories.{ids}: expected {n} ids, one per name")
            if any(type(i) is not int or not 0 <= i < 1 << 63 for i in getattr(self, ids)):
                raise ValueError(f"Categories.{ids}: expected whole numbers of at least 0")
            if len(set(getattr(self, ids))) != n:
                raise ValueError(f"Categories.{ids}: duplicate id")
        n = len(self.keypoint_names)  # a skeleton may come without names
        if not all(0 <= point < (n or 1 << 31) for pair in self.skeleton for point in pair):
            raise ValueError(f"Categories.skeleton: expected keypoint indices in 0..{n - 1}")


def name_problem(name: object) -> str | None:
    """Return why a text cannot name a class or a keypoint; ``None`` if it can.

    Every sink must be able to write a name on one line of UTF-8.
    """
    if not isinstance(name, str):
        return f"is not text but {type(name).__name__}"
    if not name.strip():
        return "is empty"
    for character in name:
        category = unicodedata.category(character)
        if category in ("Cc", "Zl", "Zp"):
            return f"contains a control character, U+{ord(character):04X}"
        if category == "Cs":
            return f"contains half of a surrogate pair, U+{ord(character):04X}"
    return None
