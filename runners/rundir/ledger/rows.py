"""Encodes the ledger's entries and facts with a CRC-32 each: SQLite has no checksums."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

COLUMNS = (
    "id, place, outcome, size, mtime_ns, sha256, start, length, image_id, frames, dropped, "
    "step, error, message, attempts, columns"
)


@dataclass(slots=True)
class Entry:
    """The ledger's record of one input.

    Attributes:
        id: Id of the asset.
        place: Position in input order.
        outcome: ``done`` or ``failed``.
        size: Size in bytes of the file that was decoded; ``None`` if it was never read.
        mtime_ns: Modification time of that file; ``None`` where a later change might not show.
        sha256: SHA-256 of its content.
        start: Offset of the lines in ``predictions.jsonl``, in bytes; ``None`` if the input failed.
        length: Length of its lines, in bytes.
        image_id: Id of its first frame, if the source assigns ids.
        frames: Number of frames that were decoded.
        dropped: Number of frames that a stage dropped.
        step: Step at which it failed; also of an input that is done, but not in full.
        error: Class name of the error.
        message: Message of the error.
        attempts: Number of attempts.
        columns: Digest of the values that its source gives it, if any.
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
    columns: str | None = None


_all_but_id = attrgetter(*COLUMNS.split(", ")[1:])


def row_of(entry: Entry) -> tuple[Any, ...]:
    """Return the row that stores an entry; the checksum is its last column."""
    row = (os.fsencode(entry.id), *_all_but_id(entry))
    return (*row, checksum_of(row))


def entry_of(row: tuple[Any, ...]) -> Entry | None:
    """Return the entry that a row stores; ``None`` if the row does not match its checksum."""
    return Entry(os.fsdecode(row[0]), *row[1:-1]) if is_intact(row) else None


def is_intact(row: tuple[Any, ...]) -> bool:
    """Return whether a row matches its last column, the checksum."""
    return bool(checksum_of(row[:-1]) == row[-1])


def checksum_of(row: tuple[Any, ...]) -> int:
    """Return the CRC-32 of the columns of a row."""
    return zlib.crc32(repr(row).encode(errors="surrogateescape"))


def text_of(value: Any) -> str:
    """Return the text that stores a fact: its checksum and its JSON."""
    text = json.dumps(value)
    return f"{zlib.crc32(text.encode())} {text}"


def fact_of(stored: str) -> Any:
    """Return the fact that a text stores.

    Raises:
        ValueError: The text does not match its checksum.
    """
    checksum, _, text = stored.partition(" ")
    if checksum != str(zlib.crc32(text.encode())):
        raise ValueError("checksum mismatch")
    return json.loads(text)
