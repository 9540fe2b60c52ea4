"""What is derived from ``predictions.jsonl`` and the ledger when a run comes to its end."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.encoding import renumbered
from pipeline.sources import Skipped
from pipeline.system.descriptors import (
    check_regular,
    create_file,
    open_to_read,
    parent_of,
    remove,
    rename,
)
from pipeline.system.files import asset_keys, replaced, sync_folder
from runners.rundir.journal import Position
from runners.rundir.ledger.ledger import Entry, Ledger

FAILURES, INPUTS, SKIPPED = "failures.jsonl", "inputs.jsonl", "skipped.jsonl"
_ORDERED = f".{PREDICTIONS}.ordered"
_AT_ONCE = 4096


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
                start, number = size, 0
                for line in renumbered(_lines(old, entry.length), first):
                    size += new.write(line)
                    number += 1
                if entry.image_id is None:
                    next_image_id += number
                moved.append(replace(entry, start=start, length=size - start))
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


def _lines(file: BinaryIO, length: int) -> Iterator[bytes]:
    """Yield the lines in the next ``length`` bytes."""
    while length > 0 and (line := file.readline(length)):
        length -= len(line)
        yield line


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


def write_skipped(directory: Path, skipped: Iterable[Skipped]) -> Counter[str]:
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
