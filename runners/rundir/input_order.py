"""Rewrites ``predictions.jsonl`` in input order when a run ends."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.encoding import renumbered
from pipeline.system.descriptors import (
    check_regular,
    create_file,
    open_to_read,
    parent_of,
    remove,
    rename,
)
from pipeline.system.files import sync_folder
from runners.rundir.journal import Position
from runners.rundir.ledger.ledger import Entry, Ledger

ORDERED = f".{PREDICTIONS}.ordered"  # the next predictions.jsonl
_AT_ONCE = 4096


def put_in_order(directory: Path, ledger: Ledger) -> None:
    """Rewrite ``predictions.jsonl`` unless it is what one uninterrupted run would have written.

    Lines are sorted into input order, superseded lines are dropped, and images are numbered again.
    The new file is durable before the ledger refers to it, and only then replaces the old file.
    ``finish_order`` completes this if it is interrupted.
    """
    if _is_in_order(ledger):
        return
    ordered = directory / ORDERED
    try:
        position = _rewrite(directory, ledger, ordered)
    except BaseException:
        remove(ordered)  # to free the space: the disk may be full
        raise
    sync_folder(directory)
    ledger.set_fact("ordered", True)
    ledger.commit(position)
    finish_order(directory, ledger)


def _rewrite(directory: Path, ledger: Ledger, ordered: Path) -> Position:
    """Write the lines in order to a new file, and their offsets to the ledger."""
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
    """Move the rewritten ``predictions.jsonl`` into place if the ledger refers to it."""
    ordered = directory / ORDERED
    if ledger.fact("ordered"):
        if check_regular(ordered):
            rename(ordered, directory / PREDICTIONS)
            sync_folder(directory)
        ledger.set_fact("ordered", False)
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


def _chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    entries = iter(entries)
    while chunk := list(islice(entries, _AT_ONCE)):
        yield chunk
