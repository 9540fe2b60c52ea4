"""The ledger remembers what was committed, and never takes damage for an empty one."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path

import pytest

from pipeline.errors import OutputError, OutputLockedError
from pipeline.sinks.predictions import Position
from runners.ledger import Entry, Ledger, LedgerDamagedError

ODD = [os.fsdecode(b"\xff.jpg"), "new\nline.jpg", "日本/ü.png", "%s{}'\".jpg", "a" * 250]


def entries(n: int = 300) -> list[Entry]:
    names = [*ODD, *(f"f{i // 50}/{i}.jpg" for i in range(n - len(ODD)))]
    made = [
        Entry(name, i, "done", 10 + i, 1_700_000_000_000_000_000 + i, f"{i:064x}", i * 100, 100)
        for i, name in enumerate(names)
    ]
    for entry in made[::10]:
        entry.outcome, entry.start, entry.length, entry.sha256 = "failed", None, 0, None
        entry.stage, entry.error, entry.message, entry.attempts = "decode", "DecodeError", "x", 3
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.put(entries())
        ledger.state("settings", {"a": {"b": [1, None, "ü"]}})
        ledger.commit(Position(30_000, 301))
    return tmp_path / "ledger.sqlite"


def test_what_is_committed_is_remembered(path: Path) -> None:
    with Ledger(path) as ledger:
        assert list(ledger.entries()) == entries()
        assert ledger.find([*ODD, "unknown"]) == {e.id: e for e in entries()[: len(ODD)]}
        assert ledger.position == Position(30_000, 301)
        assert ledger.fact("settings") == {"a": {"b": [1, None, "ü"]}}
        assert ledger.fact("unknown") is None
        assert ledger.counts() == {"done": 270, "failed": 30}
        assert [e.id for e in ledger.entries(failed=True)] == [e.id for e in entries()[::10]]
        assert ledger.next_place() == 300


def test_what_is_not_committed_is_forgotten(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.remove([ODD[0]])
        ledger.put([Entry("more", 999, "done")])
    with Ledger(path) as ledger:
        assert list(ledger.entries()) == entries()


def test_entries_are_superseded_and_may_change_while_they_are_read(path: Path) -> None:
    with Ledger(path) as ledger:
        for entry in ledger.entries():
            entry.length += 1
            ledger.put([entry])
        assert {entry.length for entry in ledger.entries()} == {1, 101}
        assert ledger.counts().total() == 300


def test_by_place_then_id(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        ledger.put([Entry("c", 1, "done"), Entry("b", 2, "done"), Entry("a", 1, "done")])
        assert [entry.id for entry in ledger.entries()] == ["a", "c", "b"]


def test_only_one_at_a_time(path: Path) -> None:
    with Ledger(path), pytest.raises(OutputLockedError, match="another run holds"):
        Ledger(path)


@pytest.mark.parametrize("cut", [0, 1, 100, 4096, 9000])
def test_cut_off(path: Path, cut: int) -> None:
    os.truncate(path, cut)
    with pytest.raises(LedgerDamagedError, match="runner=repair"), Ledger(path) as ledger:
        list(ledger.entries())


def test_another_schema(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.state("schema", 99)
        ledger.commit()
    with pytest.raises(OutputError, match="another version"):
        Ledger(path)


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_seen_or_changes_nothing(path: Path, seed: int) -> None:
    whole = path.read_bytes()
    rng = random.Random(seed)
    seen = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            with Ledger(path) as ledger:
                assert list(ledger.entries()) == entries()
                assert ledger.position == Position(30_000, 301)
                for entry in entries():
                    assert ledger.find([entry.id]) == {entry.id: entry}
                assert [e.id for e in ledger.entries(failed=True)] == [
                    e.id for e in entries()[::10]
                ]
                assert ledger.counts() == {"done": 270, "failed": 30}
        except LedgerDamagedError:
            seen += 1
    assert seen >= 20


@pytest.mark.parametrize(
    "what", ["database or disk is full", "disk I/O error", "attempt to write a readonly database"]
)
def test_a_disk_that_fails_is_an_output_error(
    path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __getattr__(self, name: str) -> object:
            raise sqlite3.OperationalError(what)

    with Ledger(path) as ledger:
        db, ledger._db = ledger._db, Failing()  # type: ignore[assignment]
        with pytest.raises(OutputError, match=what) as caught:
            ledger.commit(Position())
        assert not isinstance(caught.value, LedgerDamagedError)
        ledger._db = db
