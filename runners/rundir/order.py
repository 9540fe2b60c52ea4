"""What is derived from ``predictions.jsonl`` and the ledger when a run comes to its end."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import OutputError
from pipeline.protocols import SkippedEntry
from pipeline.sinks.predictions import NAME as PREDICTIONS
from pipeline.sinks.predictions import Position
from pipeline.system.descriptors import (
    check_regular,
    create_file,
    open_to_read,
    parent_of,
    remove,
    rename,
)
from pipeline.system.files import asset_keys, replaced, sync_folder
from runners.rundir.ledger.ledger import Entry, Ledger

FAILURES, INPUTS, SKIPPED = "failures.jsonl", "inputs.jsonl", "skipped.jsonl"
_ORDERED = f".{PREDICTIONS}.ordered"
_AT_ONCE = 4096
# in a JSON string the quotes would be escaped, so the first match is the line's own key
_IMAGE_ID = re.compile(rb', "image_id": \d+, "instances": ')


def put_in_order(directory: Path, ledger: Ledger) -> None:
    """Rewrite ``predictions.jsonl`` if it is not what one uninterrupted run would have written.

    Lines are brought into input order, those that newer ones have superseded left out, and image
    ids counted anew. The new file is durable before the ledger says that it counts, and the ledger
    says so before it takes the old one's place: ``finish_order`` ends what was interrupted.
    """
    if _is_in_order(ledger):
        return
    ordered = directory / _ORDERED
    try:
        position = _rewrite(directory, ledger, ordered)
    except BaseException:
        remove(ordered)  # a full disk has better uses for that room
        raise
    sync_folder(directory)
    ledger.state("ordered", True)
    ledger.commit(position)
    finish_order(directory, ledger)


def _rewrite(directory: Path, ledger: Ledger, ordered: Path) -> Position:
    """Write the predictions in order to another file, and what is where to the ledger."""
    size, next_image_id = 0, 1
    with open_to_read(directory / PREDICTIONS) as old, _created(ordered) as new:
        for chunk in _chunks(ledger.entries()):
            moved = []
            for entry in chunk:
                if entry.start is None:
                    continue
                old.seek(entry.start)
                first = next_image_id if entry.image_id is None else entry.image_id
                data, lines = _renumbered(old.read(entry.length), first)
                new.write(data)
                if entry.image_id is None:
                    next_image_id += lines
                moved.append(replace(entry, start=size, length=len(data)))
                size += len(data)
            ledger.put(moved)
        new.flush()
        os.fsync(new.fileno())
    return Position(size, next_image_id)


def _created(path: Path) -> BinaryIO:
    with parent_of(path) as (directory, name):
        return open(create_file(path, directory, name), "wb")  # noqa: PTH123


def finish_order(directory: Path, ledger: Ledger) -> None:
    """Put the rewritten ``predictions.jsonl`` in its place, if the ledger says that it counts."""
    ordered = directory / _ORDERED
    if ledger.fact("ordered"):
        if check_regular(ordered):
            rename(ordered, directory / PREDICTIONS)
            sync_folder(directory)
        ledger.state("ordered", False)
        ledger.commit()
    remove(ordered)


def _is_in_order(ledger: Ledger) -> bool:
    size = 0
    for entry in ledger.entries():
        if entry.start is not None:
            if entry.start != size:
                return False
            size += entry.length
    return size == ledger.position.size


def _renumbered(data: bytes, first: int) -> tuple[bytes, int]:
    """Return an asset's lines with image ids from ``first`` on, and how many there are."""
    lines = data.splitlines(keepends=True)  # of bytes: at newlines only
    for i, line in enumerate(lines):
        lines[i], found = _IMAGE_ID.subn(b', "image_id": %d, "instances": ' % (first + i), line, 1)
        if not found:
            raise OutputError(
                f"a line of {PREDICTIONS} has no image_id; run again with runner=repair, which "
                "keeps what is whole"
            )
    return b"".join(lines), len(lines)


def write_lists(directory: Path, ledger: Ledger) -> None:
    """Replace ``inputs.jsonl`` and ``failures.jsonl`` by what the ledger remembers."""
    with replaced(directory / INPUTS) as file:
        for entry in ledger.entries():
            write_line(file, input_line(entry))
    write_failures(directory, ledger)


def write_failures(directory: Path, ledger: Ledger) -> None:
    """Replace ``failures.jsonl``."""
    with replaced(directory / FAILURES) as file:
        for entry in ledger.entries(failed=True):
            write_line(file, failure_line(entry))


def write_skipped(directory: Path, skipped: Iterable[SkippedEntry]) -> Counter[str]:
    """Replace ``skipped.jsonl``, and return how many files were skipped, by reason."""
    reasons: Counter[str] = Counter()
    with replaced(directory / SKIPPED) as file:
        for entry in skipped:
            reasons[entry.reason] += 1
            write_line(file, asset_keys(entry.path, "path") | {"reason": entry.reason})
    return reasons


def input_line(entry: Entry) -> dict[str, Any]:
    """Return the line of an input for ``inputs.jsonl``."""
    version = {"size": entry.size, "sha256": entry.sha256, "outcome": entry.outcome}
    return asset_keys(entry.id) | version | {"frames": entry.frames, "dropped": entry.dropped}


def failure_line(entry: Entry) -> dict[str, Any]:
    """Return the line of an input for ``failures.jsonl``."""
    return asset_keys(entry.id) | {
        "step": entry.step,
        "error": entry.error,
        "message": entry.message,
        "attempts": entry.attempts,
    }


def write_line(file: BinaryIO, line: dict[str, Any]) -> None:
    """Append one line of JSON."""
    file.write(json.dumps(line).encode("ascii") + b"\n")


def _chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    entries = iter(entries)
    while chunk := list(islice(entries, _AT_ONCE)):
        yield chunk
