"""Records the file of each input of a watched folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import LedgerDamagedError
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.ledger.rows import checksum_of, is_intact
from runners.rundir.ledger.tables import SOURCE_FILES, statements

_COLUMNS = "id, name, gone, unreported, checksum"


@dataclass(slots=True)
class SourceFile:
    """The file that an input was read from.

    Attributes:
        id: Id of the input.
        name: Path of the file in the watched folder; differs from the id if an earlier file had
            the same name.
        gone: Whether d2run moved or deleted it, so that another file of this name is another input.
        unreported: Whether the input failed and no run has reported the failure at its end.
    """

    id: str
    name: str
    gone: bool = False
    unreported: bool = False


class SourceFiles:
    """The rows of a ledger about source files. An input without a row has its id as file name.

    Args:
        ledger: Open; its ``commit`` makes changes durable.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        if ledger.execute("SELECT 1 FROM sqlite_master WHERE name = 'source_files'"):
            return
        for statement in statements(SOURCE_FILES):
            ledger.execute(statement)
        ledger.commit()  # otherwise a rollback would drop the table

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
        """Return the rows of files with this name, and the row with this id."""
        raw = os.fsencode(name)
        return self._select("id = ? OR name = ?", (raw, raw))

    def of_ids(self, ids: Sequence[str]) -> dict[str, SourceFile]:
        """Return the rows of those inputs that have one."""
        marks = ", ".join("?" * len(ids))
        return {file.id: file for file in self._select(f"id IN ({marks})", map(os.fsencode, ids))}

    def unreported(self) -> list[SourceFile]:
        """Return the rows of failures that no run has reported."""
        return self._select("unreported")

    def report(self) -> None:
        """Mark all failures as reported."""
        reported = self.unreported()
        for file in reported:
            file.unreported = False
        self.put(reported)

    def _select(self, condition: str, values: Iterable[bytes] = ()) -> list[SourceFile]:
        statement = f"SELECT {_COLUMNS} FROM source_files WHERE {condition}"
        return list(self._files(self._ledger.execute(statement, tuple(values))))

    def _files(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[SourceFile]:
        for row in rows:
            if not is_intact(row):
                raise LedgerDamagedError(self._ledger.path, "a row does not match its checksum")
            asset_id, name, gone, unreported, _ = row
            source = os.fsdecode(asset_id if name is None else name)
            yield SourceFile(os.fsdecode(asset_id), source, bool(gone), bool(unreported))
