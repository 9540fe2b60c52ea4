"""The order of a walk: the compact sort key against the plain one, and the ids of a whole tree."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from pipeline.sources.asset import Skipped
from pipeline.sources.scan import _is_one_shape, natural_key, scan

# what has a meaning in the key (NUL aside, which no name holds), and what sorts around it
LETTERS = (
    *"aAbBzß", *"0123456789", *"0019", *" .-_~!", *"\x01\x02\x0b", *"²٣é日\udcff\U0001f600",
)  # fmt: skip


def plain_key(asset_id: str) -> list[tuple[list[str | int], str]]:
    """The definition of the order, in as many objects as it takes."""

    def tokens(name: str) -> list[str | int]:
        parts = re.split(r"([0-9]+)", name.casefold())
        return [int(part) if i % 2 else part for i, part in enumerate(parts)]

    return [(tokens(name), name) for name in asset_id.split("/")]


def sign(a: object, b: object) -> int:
    return (a > b) - (a < b)  # type: ignore[operator]


def some_id(rng: random.Random) -> str:
    names = (
        "".join(rng.choices(LETTERS, k=rng.randrange(9))) for _ in range(rng.choice([1, 1, 2, 3]))
    )
    return "/".join(names)


def changed(rng: random.Random, asset_id: str) -> str:
    """Near misses are where an order goes wrong: a letter more, less, or another."""
    at = rng.randrange(len(asset_id) + 1)
    middle = rng.choice(["", "0", "/", rng.choice(LETTERS), asset_id[at : at + 1].swapcase()])
    return asset_id[:at] + middle + asset_id[at + rng.randrange(2) :]


@pytest.mark.parametrize("seed", range(5))
def test_the_compact_key_orders_as_the_plain_one(seed: int) -> None:
    rng = random.Random(seed)
    seen = set()
    for _ in range(10_000):
        a = some_id(rng)
        b = changed(rng, a) if rng.random() < 0.7 else some_id(rng)
        expected = sign(plain_key(a), plain_key(b))
        assert sign(natural_key(a), natural_key(b)) == expected, (a, b)
        seen.add(expected)
    assert seen == {-1, 0, 1}


@pytest.mark.parametrize("digits", [1, 9, 10, 99, 127, 128, 250])
def test_numbers_of_any_length(digits: int) -> None:
    low, high = "9" * digits, "1" + "0" * digits
    ids = [f"x{low}.jpg", f"x00{low}b.jpg", f"x{high}.jpg", "xa.jpg"]
    assert sorted(reversed(ids), key=natural_key) == sorted(ids, key=plain_key) == ids


@pytest.mark.parametrize("seed", range(3))
def test_names_of_one_shape_need_no_key(seed: int) -> None:
    rng, seen = random.Random(seed), set()
    for _ in range(500):
        shape = some_id(rng).replace("/", "") + rng.choice(["", "0", "00"])
        digits = iter(rng.choices("012" if rng.random() < 0.8 else "01x", k=200))
        names = list({re.sub("[0-9]", lambda _, d=digits: next(d), shape) for _ in range(9)})
        if is_one := _is_one_shape([*names]):
            assert sorted(names) == sorted(names, key=plain_key)
        seen.add((is_one, len(names) > 1))
    assert seen == {(True, False), (True, True), (False, True)}
    assert not _is_one_shape([])
    assert not _is_one_shape(["1.jpg", Skipped("2.jpg", "hidden")])


@pytest.mark.parametrize("seed", range(3))
def test_a_tree_comes_in_the_order_of_its_ids(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        folders = [
            rng.choice(["a", "A", "a1", "a01", "a10", "a 1", "é", "日"])
            for _ in range(rng.randrange(4))
        ]
        path = tmp_path.joinpath(
            *folders,
            rng.choice(["", "a", "A", "b"]) + str(rng.randrange(20)) + rng.choice([".jpg", ".txt"]),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "a5").symlink_to(tmp_path / "elsewhere")
    found = scan(tmp_path)
    below = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")]
    assert found.images == sorted((i for i in below if i.endswith(".jpg")), key=plain_key)
    skipped = [entry.path for entry in found.skipped]
    assert skipped == sorted([*(i for i in below if i.endswith(".txt")), "a5"], key=plain_key)


def test_the_reason_of_a_kind_is_one_string(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.txt").touch()
    assert len({id(entry.reason) for entry in scan(tmp_path).skipped}) == 1
