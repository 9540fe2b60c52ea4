"""The ledger remembers what was committed, and never takes damage for an empty one."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path

import pytest

from pipeline.errors import LedgerDamagedError, OutputError, OutputLockedError
from runners.rundir.journal import Position
from runners.rundir.ledger.ledger import Entry, Ledger

ODD = [os.fsdecode(b"\xff.jpg"), "new\nline.jpg", "日本/ü.png", "%s{}'\".jpg", "a" * 250]


def entries(n: int = 300) -> list[Entry]:
    names = [*ODD, *(f"f{i // 50}/{i}.jpg" for i in range(n - len(ODD)))]
    made = [
        Entry(name, i, "done", 10 + i, 1_700_000_000_000_000_000 + i, f"{i:064x}", i * 100, 100)
        for i, name in enumerate(names)
    ]
    for entry in made[::10]:
        entry.outcome, entry.start, entry.length, entry.sha256 = "failed", None, 0, None
        entry.step, entry.error, entry.message, entry.attempts = "decode", "DecodeError", "x", 3
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.put(entries())
        ledger.set_fact("settings", {"a": {"b": [1, None, "ü"]}})
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
        assert [e.id for e in ledger.entries(with_error=True)] == [e.id for e in entries()[::10]]
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
        ledger.set_fact("schema", 99)
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
                assert [e.id for e in ledger.entries(with_error=True)] == [
                    e.id for e in entries()[::10]
                ]
                assert ledger.counts() == {"done": 270, "failed": 30}
        except LedgerDamagedError:
            seen += 1
    assert seen >= 20


def is_intact(path: Path) -> bool:
    try:
        with Ledger(path) as ledger:
            assert list(ledger.entries()) == entries()
            assert ledger.position == Position(30_000, 301)
            assert ledger.fact("settings") == {"a": {"b": [1, None, "ü"]}}
            ledger.put([Entry("more", 999, "done")])
            ledger.commit()
    except LedgerDamagedError:
        return False
    return True


@pytest.mark.parametrize("bits", [1, 2, 64, 255])
def test_every_byte_of_the_header_is_seen_when_opened_or_changes_nothing(
    path: Path, bits: int
) -> None:
    whole = path.read_bytes()
    for at in range(100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])
        is_intact(path)  # or another error, which a user would not know how to mend


@pytest.mark.parametrize("what", ["an entry", "a fact", "an index", "a table"])
def test_damage_is_seen_when_it_is_opened(path: Path, what: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute(
            {
                "an entry": "UPDATE entries SET length = 101 WHERE place = 7",
                "a fact": "UPDATE facts SET value = replace(value, 'b', 'c')",
                "an index": "DROP INDEX errors",
                "a table": "UPDATE sqlite_master SET sql = replace(sql, 'INTEGER', 'INT')",
            }[what]
        )
    db.close()
    with pytest.raises(LedgerDamagedError, match="runner=repair"):
        Ledger(path)


def test_a_ledger_that_was_closed_is_not_verified_row_by_row(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = []
    monkeypatch.setattr(Ledger, "_verify", lambda self: verified.append(self))
    with Ledger(path):
        assert not verified
    before = path.read_bytes()
    with Ledger(path) as ledger:
        ledger.put([Entry("more", 999, "done")])
        ledger.commit()
        killed = path.read_bytes()
    assert path.read_bytes() != before
    with Ledger(path):
        assert not verified
    path.write_bytes(killed)  # it was not closed
    with Ledger(path):
        assert verified
    assert path.read_bytes() == killed  # nor is it now said to be verified
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_ledger_that_is_replaced_is_noticed(path: Path) -> None:
    other = path.with_name("ledger.sqlite-journal")
    with Ledger(path) as ledger:
        ledger.put([Entry("more", 999, "done")])
        path.rename(path.with_name("moved"))
        other.rename(path.with_name("moved-journal"))
        path.write_bytes(b"another's")
        other.write_bytes(b"another's")
        with pytest.raises(OutputError, match="moved, replaced or deleted"):
            ledger.commit()
    assert path.read_bytes() == other.read_bytes() == b"another's"


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
