"""The tables of the ledger, and how damage to them is recognized."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from pipeline.errors import LedgerDamagedError
from runners.rundir.ledger.rows import is_intact

SCHEMA = 3
TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
  id BLOB PRIMARY KEY, place INTEGER NOT NULL, outcome TEXT NOT NULL,
  size INTEGER, mtime_ns INTEGER, sha256 TEXT,
  start INTEGER, length INTEGER NOT NULL, image_id INTEGER, frames INTEGER NOT NULL,
  dropped INTEGER NOT NULL, step TEXT, error TEXT, message TEXT, attempts INTEGER NOT NULL,
  columns TEXT, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX places ON entries (place, id);
CREATE INDEX errors ON entries (place, id) WHERE error IS NOT NULL;
"""
# Only runner=watch uses this table (source_files.py).
SOURCE_FILES = """
CREATE TABLE source_files (
  id BLOB PRIMARY KEY, name BLOB, gone INTEGER NOT NULL, unreported INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX names ON source_files (name) WHERE name IS NOT NULL;
CREATE INDEX unreported ON source_files (id) WHERE unreported;
"""


def statements(tables: str) -> list[str]:
    """Return the statements that create tables, in the form in which SQLite keeps them."""
    return [each.strip() for each in tables.split(";")[:-1]]


def verify_rows(database: sqlite3.Connection, path: Path) -> None:
    """Check the tables of a ledger and the checksum of each row.

    Raises:
        LedgerDamagedError: A table differs from what this version creates, or a row is damaged.
    """
    run = database.execute
    found = [row[0] for row in run("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
    own, watched = statements(TABLES), statements(SOURCE_FILES)
    if found not in (own, own + watched):
        raise LedgerDamagedError(path, "its tables are not those of a ledger")
    for table in ("entries", "source_files") if found != own else ("entries",):
        if not all(map(is_intact, run(f"SELECT * FROM {table}"))):
            raise LedgerDamagedError(path, "a row does not match its checksum")


def is_damage(exc: sqlite3.Error | ValueError) -> bool:
    """Return whether the file is damaged, rather than the disk failing.

    SQLite's messages decide, because Python 3.10 does not expose its error codes.
    """
    text = str(exc)
    return (
        isinstance(exc, ValueError)  # not UTF-8, not JSON
        or text.startswith(("no such ", "Could not decode"))
        or any(
            words in text for words in ("malformed", "not a database", "unsupported file format")
        )
    )
