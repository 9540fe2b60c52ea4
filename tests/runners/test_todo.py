"""Which inputs are processed, decided by content."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.sources import ImageAsset
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.todo import Todo, trusted_mtime

LONG_AGO_NS = 1_000_000_000 * 10**9


def write(folder: Path, name: str, content: bytes) -> ImageAsset:
    path = folder / name
    path.write_bytes(content)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return ImageAsset(name, path)


def entry(asset: ImageAsset, place: int, **changes: object) -> Entry:
    status = asset.path.stat()
    made = Entry(asset.id, place, "done", status.st_size, status.st_mtime_ns, asset.fingerprint())
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def states(todo: Todo) -> dict[str, str]:
    return {asset.id: state for asset, _, state in todo.states()}


def test_states(tmp_path: Path, ledger: Ledger) -> None:
    assets = {name: write(tmp_path, name, name.encode()) for name in "abcdefghij"}
    ledger.put(
        [
            entry(assets["a"], 0),
            entry(assets["b"], 1, mtime_ns=None),
            entry(assets["c"], 2, size=99),
            entry(assets["d"], 3, mtime_ns=5, sha256="0" * 64),
            entry(assets["e"], 4, outcome="failed", error="DecodeError"),
            entry(assets["f"], 5, outcome="failed", error="PoisonError"),
            entry(assets["g"], 6, outcome="failed", error="PoisonError", size=99),
            entry(assets["h"], 7),
            entry(assets["i"], 8, mtime_ns=7),
        ]
    )
    assets["h"].path.unlink()

    def listed() -> list[ImageAsset]:
        return [ImageAsset(name, tmp_path / name) for name in assets]

    todo = Todo(listed(), ledger, unseen_failures={"e", "elsewhere"})
    assert states(todo) == {
        "a": "done",
        "b": "done",  # its time proves nothing, its content does
        "c": "changed",
        "d": "changed",
        "e": "failed",
        "f": "poison",
        "g": "failed",  # another content than the poison
        "h": "gone",
        "i": "done",  # touched
        "j": "new",
    }
    assert todo.known == 9
    assert todo.not_to_do == 5
    assert todo.unseen_failures == {"elsewhere"}
    # what was learnt is remembered: next time no content need be read
    assert ledger.find(["b"])["b"].mtime_ns == ledger.find(["i"])["i"].mtime_ns == LONG_AGO_NS
    assert states(Todo(listed(), ledger, only_failed=True)) == {
        "a": "done", "b": "done", "c": "later", "d": "later", "e": "failed", "f": "failed",
        "g": "failed", "h": "gone", "i": "done", "j": "later",
    }  # fmt: skip
    assert states(Todo(listed(), ledger, poison_again=True))["f"] == "failed"


def test_places_follow_the_input(tmp_path: Path, ledger: Ledger) -> None:
    assets = [write(tmp_path, name, b"x") for name in "abc"]
    ledger.put([entry(asset, 5 + i) for i, asset in enumerate(assets)])
    assert list(Todo(reversed(assets), ledger, keep_places=True)) == []
    assert [e.place for e in ledger.entries()] == [5, 6, 7]
    assert list(Todo(reversed(assets), ledger)) == []
    assert [(e.id, e.place) for e in ledger.entries()] == [("c", 0), ("b", 1), ("a", 2)]


def test_many_inputs(tmp_path: Path, ledger: Ledger) -> None:
    asset = write(tmp_path, "a", b"x")
    assets = [ImageAsset(f"{i}.jpg", asset.path) for i in range(1300)]
    ledger.put(entry(each, i) for i, each in enumerate(assets) if i % 3)
    found = list(Todo(assets, ledger))
    assert [(each.id, place) for each, place in found] == [
        (f"{i}.jpg", i) for i in range(0, 1300, 3)
    ]


@pytest.mark.parametrize("keep_places", [False, True])
@pytest.mark.parametrize("n_removed", [0, 3, 5000])
def test_done_inputs_are_not_read(
    tmp_path: Path,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    n_removed: int,
    keep_places: bool,
) -> None:
    asset = write(tmp_path, "a", b"x")
    assets = [ImageAsset(f"{i}.jpg", asset.path) for i in range(700)]
    ledger.put(replace(entry(asset, i), id=each.id) for i, each in enumerate(assets))
    # inputs that no longer exist keep their places
    ledger.put(replace(entry(asset, i % 700), id=f"removed {i}") for i in range(n_removed))
    monkeypatch.setattr(ImageAsset, "fingerprint", lambda _: pytest.fail("a file was read"))
    todo = Todo(assets, ledger, keep_places=keep_places)
    assert list(todo) == []
    assert (todo.counts["done"], todo.known, todo.moved) == (700, 700, False)


def test_without_a_ledger_all_is_new(tmp_path: Path) -> None:
    asset = write(tmp_path, "a", b"x")
    assert states(Todo([asset])) == {"a": "new"}


def test_a_time_of_change_is_trusted_only_when_it_is_past() -> None:
    now = time.time_ns()
    assert trusted_mtime(LONG_AGO_NS, now) == LONG_AGO_NS
    assert trusted_mtime(now - 10**9, now) is None
    assert trusted_mtime(now + 10**18, now) is None
    assert trusted_mtime(None, now) is None
