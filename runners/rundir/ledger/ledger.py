"""The ledger of an output directory, ``ledger.sqlite``: which inputs are done.

One process owns it, exclusively and with one connection. This rules out SQLite's bug with several
connections to a write-ahead log (fixed in 3.51.3). ``commit`` returns when the changes are on the
disk; what it names is already durable in every sink.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

from pipeline.errors import LedgerDamagedError, OutputError, OutputLockedError
from pipeline.system.descriptors import check_held, check_regular, remove, status_of
from runners.rundir.journal import Position
from runners.rundir.ledger.rows import COLUMNS, Entry, entry_of, fact_of, row_of, text_of
from runners.rundir.ledger.seal import identity_of, is_sealed, seal
from runners.rundir.ledger.tables import SCHEMA, TABLES, is_damage, statements, verify_rows
from runners.rundir.lock import refusal

__all__ = ["NAME", "Entry", "Ledger"]

NAME = "ledger.sqlite"
_PAGE = 4096  # rows per query
_VALUES = ", ".join("?" * 17)


class Ledger:
    """The ledger of one output directory. Thread-safe.

    Changes are visible at once and durable after ``commit``.

    Args:
        path: Path of the database; created if it is missing.

    Raises:
        LedgerDamagedError: The database exists and cannot be trusted.
        OutputLockedError: Another process has it open.
        OutputError: It cannot be opened or created, or belongs to another version of d2run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = RLock()
        self._changed = False
        self._identity: tuple[int, int] | None = None
        for suffix in ("", "-journal", "-wal", "-shm"):  # SQLite would follow a link
            check_regular(path.with_name(path.name + suffix))
        check_held(path.parent)  # SQLite opens the file by name
        status = status_of(path)
        if status is not None and not status.st_size:
            raise LedgerDamagedError(path, "it is empty")
        intact = status is not None and is_sealed(path)
        with self._translated():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with self._translated(opening=status is not None):
                self._open(create=status is None, intact=intact)
            self._identity = identity_of(status_of(path))
        except BaseException:
            self.__exit__()
            raise

    def _open(self, *, create: bool, intact: bool) -> None:
        run = self._db.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA synchronous = FULL")
        # truncated by descriptor; deleting by name could hit another run's in a replaced output
        mode = run("PRAGMA journal_mode = TRUNCATE").fetchone()[0]
        run("PRAGMA cache_size = -32768")  # KiB
        run("PRAGMA temp_store = MEMORY")
        run("BEGIN EXCLUSIVE")
        if create:
            for statement in statements(TABLES):
                run(statement)
            self._set("schema", SCHEMA)
            self._set("position", [0, 1])
            run("COMMIT")
            self._changed = True
            run("BEGIN EXCLUSIVE")
            return
        if mode != "truncate":
            raise LedgerDamagedError(self.path, "its header is not that of a ledger")
        if not intact:
            self._verify()
        if (schema := self.fact("schema")) != SCHEMA:
            raise OutputError(
                f"'{self.path}' was written by another version of d2run (schema {schema}, not "
                f"{SCHEMA}); finish with that version, or choose another output"
            )

    def _verify(self) -> None:
        """Read and check the whole ledger, which takes seconds for a million inputs.

        Raises:
            LedgerDamagedError: Something is not as it was written.
        """
        run = self._db.execute
        problems = [row[0] for row in run("PRAGMA integrity_check(1)")]
        if problems != ["ok"]:
            raise LedgerDamagedError(self.path, problems[0])
        run("UPDATE facts SET value = value")  # fails if the header says read-only
        for (name,) in run("SELECT name FROM facts").fetchall():
            self.fact(name)
        if self.fact("schema") == SCHEMA:  # another version has other tables
            verify_rows(self._db, self.path)

    def __enter__(self) -> Ledger:
        """Return the ledger, which is already open."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the ledger and discard uncommitted changes."""
        with self._lock:
            self._db.close()
            with suppress(OSError, OutputError):  # the next run verifies the ledger row by row
                self._tidy()

    def _tidy(self) -> None:
        """Remove the journal unless the next run needs it to roll back; seal the ledger."""
        journal = self.path.with_name(f"{self.path.name}-journal")
        if (status := status_of(journal)) is not None:
            if status.st_size:
                return
            remove(journal)
        if self._changed and identity_of(status_of(self.path)) == self._identity:
            seal(self.path)
        self._changed = False

    @property
    def position(self) -> Position:
        """The end of the committed part of ``predictions.jsonl``."""
        return Position(*self.fact("position"))

    def fact(self, name: str) -> Any:
        """Return a fact about the output; ``None`` if it is unknown.

        Raises:
            LedgerDamagedError: It does not match its checksum.
        """
        with self._translated():
            row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        try:
            return fact_of(str(row[0]))
        except ValueError as exc:
            raise LedgerDamagedError(self.path, f"'{name}' does not match its checksum") from exc

    def set_fact(self, name: str, value: Any) -> None:
        """Store a fact; ``value`` is anything that JSON can hold."""
        with self._translated():
            self._set(name, value)

    def _set(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, text_of(value)))

    def find(self, ids: Sequence[str]) -> dict[str, Entry]:
        """Return the entries of those ids that the ledger knows."""
        marks = ", ".join("?" * len(ids))
        with self._translated():
            rows = self._db.execute(
                f"SELECT {COLUMNS}, checksum FROM entries WHERE id IN ({marks})",
                [os.fsencode(asset_id) for asset_id in ids],
            ).fetchall()
        return {entry.id: entry for entry in map(self._entry, rows)}

    def put(self, entries: Iterable[Entry]) -> None:
        """Add entries, or replace those of the same ids."""
        rows = [row_of(entry) for entry in entries]
        with self._translated():
            self._db.executemany(f"INSERT OR REPLACE INTO entries VALUES ({_VALUES})", rows)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove the entries of these ids."""
        rows = [(os.fsencode(one),) for one in ids]
        with self._translated():
            self._db.executemany("DELETE FROM entries WHERE id = ?", rows)

    def commit(self, position: Position | None = None) -> None:
        """Make all changes durable.

        Args:
            position: The new end of what is committed of ``predictions.jsonl``.
        """
        with self._translated():
            if position is not None:
                self._set("position", [position.size, position.next_image_id])
            if identity_of(status_of(self.path)) != self._identity:
                raise OutputError(
                    f"the ledger '{self.path}' was moved, replaced or deleted during the run; run "
                    "the same command with runner=repair, which keeps the intact results"
                )
            self._db.execute("COMMIT")
            self._changed = True
            self._db.execute("BEGIN EXCLUSIVE")

    def copy(self, path: Path) -> None:
        """Commit, and copy the ledger to a new file; another descriptor would release its locks."""
        self.commit()
        with self._translated(), closing(sqlite3.connect(path)) as copy:
            self._db.execute("COMMIT")  # SQLite copies nothing within a transaction
            self._db.backup(copy)
            self._db.execute("BEGIN EXCLUSIVE")

    def rollback(self) -> None:
        """Discard uncommitted changes."""
        with self._translated():
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._db.execute("BEGIN EXCLUSIVE")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement on a table that a runner keeps in the ledger; return its rows."""
        with self._translated():
            return self._db.execute(statement, values).fetchall()

    def entries(self, *, with_error: bool = False, page: int = _PAGE) -> Iterator[Entry]:
        """Yield the entries by place, page by page, so that they may be changed meanwhile.

        Args:
            with_error: Yield only those that failed or are not done in full.
            page: Rows per query.
        """
        which = "error IS NOT NULL AND " if with_error else ""
        last: tuple[int, bytes] = (-(1 << 62), b"")
        while True:
            with self._translated():
                rows = self._db.execute(
                    f"SELECT {COLUMNS}, checksum FROM entries "
                    f"WHERE {which}(place, id) > (?, ?) ORDER BY place, id LIMIT {page}",
                    last,
                ).fetchall()
            if not rows:
                return
            last = rows[-1][1], rows[-1][0]
            yield from map(self._entry, rows)

    def counts(self, places: range | None = None) -> Counter[str]:
        """Return how many inputs, of all or only of these places, are done and how many failed."""
        failed = self._count("error IS NOT NULL AND outcome = 'failed'", places)
        return Counter(done=self._count("true", places) - failed, failed=failed)

    def n_partial(self, places: range) -> int:
        """Return how many inputs of these places are done, but not in full."""
        return self._count("error IS NOT NULL AND outcome = 'done'", places)

    def _count(self, condition: str, places: range | None) -> int:
        bounds = [places.start, places.stop] if places is not None else []
        within = "AND place >= ? AND place < ?" if bounds else ""
        query = f"SELECT count(*) FROM entries WHERE {condition} {within}"
        return int(self.execute(query, bounds)[0][0])

    def next_place(self, places: range = range(1 << 62)) -> int:
        """Return the place after the last one in use, of all or only of these places."""
        query = "SELECT max(place) FROM entries WHERE place >= ? AND place < ?"
        last = self.execute(query, (places.start, places.stop))[0][0]
        return places.start if last is None else int(last) + 1

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        entry = entry_of(row)
        if entry is None:
            raise LedgerDamagedError(self.path, "an entry does not match its checksum")
        return entry

    @contextmanager
    def _translated(self, *, opening: bool = False) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, ValueError) as exc:
                read_only = "readonly" in str(exc) and os.access(self.path, os.W_OK)
                if is_damage(exc) or (opening and read_only):
                    raise LedgerDamagedError(self.path, str(exc)) from exc
                if "locked" in str(exc):  # by a run whose .lock was removed
                    raise OutputLockedError(refusal(self.path.parent)) from exc
                raise OutputError(f"cannot write the ledger '{self.path}': {exc}") from exc
