"""Which file of a watched folder each input was, and what the ledger remembers of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import LedgerDamagedError
from runners.rundir.ledger.ledger import (
    SOURCE_FILES,
    Ledger,
    checksum_of,
    statements,
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
        if ledger.execute("SELECT 1 FROM sqlite_master WHERE name = 'source_files'"):
            return
        for statement in statements(SOURCE_FILES):
            ledger.execute(statement)
        ledger.commit()  # or a rollback would take the table with it

    def put(self, files: Iterable[SourceFile]) -> None:
        """Add rows, or replace those of the same ids."""
        for file in files:
            name = None if file.name == file.id else os.fsencode(file.name)
            row = (os.fsencode(file.id), name, int(file.gone), int(file.unreported))
            values = (*row, checksum_of(row))
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
            if checksum_of(tuple(row)) != checksum:
                raise LedgerDamagedError(self._ledger.path, "a row does not fit its checksum")
            asset_id, name, gone, unreported = row
            source = os.fsdecode(asset_id if name is None else name)
            yield SourceFile(os.fsdecode(asset_id), source, bool(gone), bool(unreported))
