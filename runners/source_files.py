"""Which file of a watched folder each input was, and what the ledger remembers of it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runners.ledger import Ledger, LedgerDamagedError

_TABLE = (
    "CREATE TABLE IF NOT EXISTS source_files (id BLOB PRIMARY KEY, name BLOB, "
    "gone INTEGER NOT NULL, unreported INTEGER NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS names ON source_files (name) WHERE name IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS unreported ON source_files (id) WHERE unreported",
)
_COLUMNS = "id, name, gone, unreported, checksum"


@dataclass(slots=True)
class SourceFile:
    """The file that an input was.

    Attributes:
        id: The input's.
        name: The file's path in the watched folder; differs from the id if an earlier file had
            that name.
        gone: d2run has moved or deleted it: another file of this name is another input.
        unreported: It failed, and no run has ended in order since.
    """

    id: str
    name: str
    gone: bool = False
    unreported: bool = False


class SourceFiles:
    """The rows of a ledger about source files. An input without one is the file of its id.

    Args:
        ledger: Open. What is put here is kept by its ``commit``.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        for statement in _TABLE:
            ledger.execute(statement)
        ledger.commit()  # or a rollback would take the table with it

    def put(self, files: Iterable[SourceFile]) -> None:
        """Add rows, or replace those of the same ids."""
        for file in files:
            name = None if file.name == file.id else os.fsencode(file.name)
            row = (os.fsencode(file.id), name, int(file.gone), int(file.unreported))
            values = (*row, zlib.crc32(repr(row).encode()))
            self._ledger.execute(
                "INSERT OR REPLACE INTO source_files VALUES (?, ?, ?, ?, ?)", values
            )

    def of_name(self, name: str) -> list[SourceFile]:
        """Return the rows of files with this name, and the row of this id."""
        raw = os.fsencode(name)
        return self._select("id = ? OR name = ?", (raw, raw))

    def of_ids(self, ids: Sequence[str]) -> dict[str, SourceFile]:
        """Return the rows of these inputs, as far as there are any."""
        marks = ", ".join("?" * len(ids))
        return {file.id: file for file in self._select(f"id IN ({marks})", map(os.fsencode, ids))}

    def unreported(self) -> list[SourceFile]:
        """Return the rows of failures that no run has reported at its end."""
        return self._select("unreported")

    def report(self) -> None:
        """Note that all failures have been reported."""
        reported = self.unreported()
        for file in reported:
            file.unreported = False
        self.put(reported)

    def _select(self, condition: str, values: Iterable[bytes] = ()) -> list[SourceFile]:
        statement = f"SELECT {_COLUMNS} FROM source_files WHERE {condition}"
        return list(self._files(self._ledger.execute(statement, tuple(values))))

    def _files(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[SourceFile]:
        for *row, checksum in rows:
            if zlib.crc32(repr(tuple(row)).encode()) != checksum:
                raise LedgerDamagedError(self._ledger.path, "a row does not fit its checksum")
            asset_id, name, gone, unreported = row
            source = os.fsdecode(asset_id if name is None else name)
            yield SourceFile(os.fsdecode(asset_id), source, bool(gone), bool(unreported))
