"""Which inputs are done, under which fingerprint: ``ledger.sqlite``, the memory of a run.

One process owns it, with one connection, exclusively: so SQLite's bug with several connections to
a WAL (before 3.51.3) cannot occur, and every commit is on the disk when it returns. What is
committed here is already durable in every sink.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from threading import RLock
from typing import Any

from pipeline.errors import OutputError, OutputLockedError
from pipeline.system.descriptors import check_held, check_regular, remove, status_of
from runners.rundir.journal import Position
from runners.rundir.ledger.seal import is_sealed, seal
from runners.rundir.lock import refusal

NAME = "ledger.sqlite"
_SCHEMA = 2
_SIBLINGS = "", "-journal", "-wal", "-shm"
_PAGE = 4096  # rows read at once
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
  id BLOB PRIMARY KEY, place INTEGER NOT NULL, outcome TEXT NOT NULL,
  size INTEGER, mtime_ns INTEGER, sha256 TEXT,
  start INTEGER, length INTEGER NOT NULL, image_id INTEGER, frames INTEGER NOT NULL,
  dropped INTEGER NOT NULL, step TEXT, error TEXT, message TEXT, attempts INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX places ON entries (place, id);
CREATE INDEX failures ON entries (place, id) WHERE outcome = 'failed';
"""
# Of runner=watch, which creates it (runners/rundir/ledger/source_files.py).
SOURCE_FILES = """
CREATE TABLE source_files (
  id BLOB PRIMARY KEY, name BLOB, gone INTEGER NOT NULL, unreported INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX names ON source_files (name) WHERE name IS NOT NULL;
CREATE INDEX unreported ON source_files (id) WHERE unreported;
"""


class LedgerDamagedError(OutputError):
    """The ledger does not say any more what is done; the message says how to rebuild it."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"the ledger '{path}' is damaged ({what}); run the same command with runner=repair, "
            "which rebuilds it from predictions.jsonl, or with runner.on_change=restart to do "
            "everything anew"
        )


@dataclass(slots=True)
class Entry:
    """What is remembered of one input.

    Attributes:
        id: The asset's.
        place: In input order.
        outcome: ``done`` or ``failed``.
        size: Of the file that was decoded, in bytes; ``None`` if it was never read.
        mtime_ns: Of that file; ``None`` where it could change again without this changing.
        sha256: Of its content.
        start: Where its lines begin in ``predictions.jsonl``, in bytes; ``None`` if it failed.
        length: Of its lines, in bytes.
        image_id: Of its first frame, if the source says so.
        frames: That were decoded.
        dropped: Frames that a stage dropped.
        step: Where it failed; so too ``error`` (a class name), ``message``.
        attempts: How often it was tried.
    """

    id: str
    place: int
    outcome: str
    size: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None
    start: int | None = None
    length: int = 0
    image_id: int | None = None
    frames: int = 0
    dropped: int = 0
    step: str | None = None
    error: str | None = None
    message: str | None = None
    attempts: int = 1


_COLUMNS = (
    "id, place, outcome, size, mtime_ns, sha256, start, length, image_id, frames, dropped, "
    "step, error, message, attempts"
)
_VALUES = ", ".join("?" * 16)
_but_id = attrgetter(*_COLUMNS.split(", ")[1:])


class Ledger:
    """The ledger of one output directory. Safe to use on several threads.

    Changes are seen at once and kept by ``commit``.

    Args:
        path: Of the database; made if it is not there.

    Raises:
        LedgerDamagedError: It is there and cannot be trusted.
        OutputLockedError: Another process has it open.
        OutputError: It cannot be opened or made, or is of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = RLock()
        self._changed = False
        self._identity: tuple[int, int] | None = None
        for suffix in _SIBLINGS:  # SQLite would follow a link
            check_regular(path.with_name(path.name + suffix))
        check_held(path.parent)  # it opens the file by name
        status = status_of(path)
        if status is not None and not status.st_size:
            raise LedgerDamagedError(path, "it is empty")
        intact = status is not None and is_sealed(path)
        with self._translated():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with self._translated(opening=status is not None):
                self._open(made=status is None, intact=intact)
            self._identity = _identity(status_of(path))
        except BaseException:
            self.__exit__()
            raise

    def _open(self, *, made: bool, intact: bool) -> None:
        run = self._db.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA synchronous = FULL")
        # by descriptor; deleted by name, it could be that of another run's in a replaced output
        mode = run("PRAGMA journal_mode = TRUNCATE").fetchone()[0]
        run("PRAGMA cache_size = -32768")  # KiB
        run("PRAGMA temp_store = MEMORY")
        run("BEGIN EXCLUSIVE")
        if made:
            for statement in statements(_TABLES):
                run(statement)
            self._set("schema", _SCHEMA)
            self._set("position", [0, 1])
            run("COMMIT")
            self._changed = True
            run("BEGIN EXCLUSIVE")
            return
        if mode != "truncate":
            raise LedgerDamagedError(self.path, "its header is not that of a ledger")
        if not intact:
            self._verify()
        if (schema := self.fact("schema")) != _SCHEMA:
            raise OutputError(
                f"'{self.path}' was written by another version of d2run (schema {schema}, not "
                f"{_SCHEMA}); finish with that version, or choose another output"
            )

    def _verify(self) -> None:
        """Read all of it, which takes some seconds for a million inputs.

        Raises:
            LedgerDamagedError: Something is not as it was written.
        """
        run = self._db.execute
        problems = [row[0] for row in run("PRAGMA integrity_check(1)")]
        if problems != ["ok"]:
            raise LedgerDamagedError(self.path, problems[0])
        run("UPDATE facts SET value = value")  # its header may call it read-only
        for (name,) in run("SELECT name FROM facts").fetchall():
            self.fact(name)
        if self.fact("schema") != _SCHEMA:
            return  # another version's tables
        found = [row[0] for row in run("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        own, watched = statements(_TABLES), statements(SOURCE_FILES)
        if found not in (own, own + watched):
            raise LedgerDamagedError(self.path, "its tables are not those of a ledger")
        for table in ("entries", "source_files") if found != own else ("entries",):
            for row in run(f"SELECT * FROM {table}"):  # the checksum is the last column
                if checksum_of(row[:-1]) != row[-1]:
                    raise LedgerDamagedError(self.path, "a row does not fit its checksum")

    def __enter__(self) -> Ledger:
        """Go on."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close it; what was not committed is forgotten."""
        with self._lock:
            self._db.close()
            with suppress(OSError, OutputError):  # the next run verifies it row by row
                self._tidy()

    def _tidy(self) -> None:
        """Remove the journal, unless the next run must roll back with it, and seal the ledger."""
        journal = self.path.with_name(f"{self.path.name}-journal")
        status = status_of(journal)
        if status is not None:
            if status.st_size:
                return
            remove(journal)
        if self._changed and _identity(status_of(self.path)) == self._identity:
            seal(self.path)
        self._changed = False

    @property
    def position(self) -> Position:
        """How far ``predictions.jsonl`` was committed."""
        return Position(*self.fact("position"))

    def fact(self, name: str) -> Any:
        """Return a fact about the run, ``None`` if it is not known.

        Raises:
            LedgerDamagedError: It does not fit its checksum.
        """
        with self._translated():
            row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        checksum, _, text = str(row[0]).partition(" ")
        if checksum != str(zlib.crc32(text.encode())):
            raise LedgerDamagedError(self.path, f"'{name}' does not fit its checksum")
        return json.loads(text)

    def state(self, name: str, value: Any) -> None:
        """Remember a fact; ``value`` is anything that JSON holds."""
        with self._translated():
            self._set(name, value)

    def _set(self, name: str, value: Any) -> None:
        text = json.dumps(value)
        stored = f"{zlib.crc32(text.encode())} {text}"
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, stored))

    def find(self, ids: Sequence[str]) -> dict[str, Entry]:
        """Return the entries of these ids, as far as there are any."""
        marks = ", ".join("?" * len(ids))
        with self._translated():
            rows = self._db.execute(
                f"SELECT {_COLUMNS}, checksum FROM entries WHERE id IN ({marks})",
                [os.fsencode(asset_id) for asset_id in ids],
            ).fetchall()
        return {entry.id: entry for entry in map(self._entry, rows)}

    def versions(self, ids: Sequence[str]) -> dict[str, tuple[int | None, int | None, int]]:
        """Return size, mtime_ns and place of those inputs that are done.

        Not held against their checksums, which takes most of the time of ``find``: for whom the
        file on the disk confirms what is said.
        """
        marks = ", ".join("?" * len(ids))
        with self._translated():
            rows = self._db.execute(
                "SELECT id, size, mtime_ns, place FROM entries "
                f"WHERE outcome = 'done' AND id IN ({marks})",
                [os.fsencode(asset_id) for asset_id in ids],
            ).fetchall()
        return {os.fsdecode(row[0]): row[1:] for row in rows}

    def put(self, entries: Iterable[Entry]) -> None:
        """Add entries, or replace those of the same ids."""
        rows = []
        for entry in entries:
            row = (os.fsencode(entry.id), *_but_id(entry))
            rows.append((*row, checksum_of(row)))
        with self._translated():
            self._db.executemany(f"INSERT OR REPLACE INTO entries VALUES ({_VALUES})", rows)

    def remove(self, ids: Iterable[str]) -> None:
        """Forget these inputs."""
        with self._translated():
            self._db.executemany(
                "DELETE FROM entries WHERE id = ?", ((os.fsencode(one),) for one in ids)
            )

    def commit(self, position: Position | None = None) -> None:
        """Bring all changes to the disk.

        Args:
            position: How far ``predictions.jsonl`` goes with them.
        """
        with self._translated():
            if position is not None:
                self._set("position", [position.size, position.next_image_id])
            if _identity(status_of(self.path)) != self._identity:
                raise OutputError(
                    f"the ledger '{self.path}' was moved, replaced or deleted during the run; run "
                    "the same command with runner=repair, which keeps the intact results"
                )
            self._db.execute("COMMIT")
            self._changed = True
            self._db.execute("BEGIN EXCLUSIVE")

    def rollback(self) -> None:
        """Forget what was not committed."""
        with self._translated():
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._db.execute("BEGIN EXCLUSIVE")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement on a table that a runner keeps in here; return its rows."""
        with self._translated():
            return self._db.execute(statement, values).fetchall()

    def entries(self, *, failed: bool = False) -> Iterator[Entry]:
        """Yield the entries by place, page by page: they may be changed meanwhile.

        Args:
            failed: Only those that failed.
        """
        which = "outcome = 'failed' AND " if failed else ""
        last: tuple[int, bytes] = (-(1 << 62), b"")
        while True:
            with self._translated():
                rows = self._db.execute(
                    f"SELECT {_COLUMNS}, checksum FROM entries "
                    f"WHERE {which}(place, id) > (?, ?) ORDER BY place, id LIMIT {_PAGE}",
                    last,
                ).fetchall()
            if not rows:
                return
            last = rows[-1][1], rows[-1][0]
            yield from map(self._entry, rows)

    def counts(self, places: range | None = None) -> Counter[str]:
        """Return how many inputs are done and how many failed, of those places or of all."""
        query, bounds = "SELECT count(*) FROM entries WHERE true", list[int]()
        if places is not None:
            query, bounds = f"{query} AND place >= ? AND place < ?", [places.start, places.stop]
        with self._translated():
            failed = self._db.execute(f"{query} AND outcome = 'failed'", bounds).fetchone()[0]
            total = self._db.execute(query, bounds).fetchone()[0]
        return Counter(done=total - failed, failed=failed)

    def next_place(self) -> int:
        """Return a place behind all others."""
        with self._translated():
            last = self._db.execute("SELECT max(place) FROM entries").fetchone()[0]
        return 0 if last is None else int(last) + 1

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        if checksum_of(row[:-1]) != row[-1]:
            raise LedgerDamagedError(self.path, "an entry does not fit its checksum")
        return Entry(os.fsdecode(row[0]), *row[1:-1])

    @contextmanager
    def _translated(self, *, opening: bool = False) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, ValueError) as exc:
                read_only = "readonly" in str(exc) and os.access(self.path, os.W_OK)
                if _is_damage(exc) or (opening and read_only):
                    raise LedgerDamagedError(self.path, str(exc)) from exc
                if "locked" in str(exc):  # by a run whose .lock somebody has removed
                    raise OutputLockedError(refusal(self.path.parent)) from exc
                raise OutputError(f"cannot write the ledger '{self.path}': {exc}") from exc


def _identity(status: os.stat_result | None) -> tuple[int, int] | None:
    return None if status is None else (status.st_dev, status.st_ino)


def _is_damage(exc: sqlite3.Error | ValueError) -> bool:
    """Tell damage from a disk that fails; by SQLite's words, as Python 3.10 has no other names."""
    text = str(exc)
    return (
        isinstance(exc, ValueError)  # not UTF-8, not JSON
        or text.startswith(("no such ", "Could not decode"))
        or any(
            words in text for words in ("malformed", "not a database", "unsupported file format")
        )
    )


def statements(tables: str) -> list[str]:
    """Return the statements that create tables, as SQLite keeps them."""
    return [each.strip() for each in tables.split(";")[:-1]]


def checksum_of(row: tuple[Any, ...]) -> int:
    """Return the CRC-32 of a row's other columns: SQLite itself has none."""
    return zlib.crc32(repr(row).encode(errors="surrogateescape"))
