"""The lists beside the results: ``inputs.jsonl``, ``failures.jsonl``, ``skipped.jsonl``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.protocols import SkippedEntry
from pipeline.system.descriptors import open_file
from pipeline.system.files import asset_keys, replaced
from runners.rundir.ledger.ledger import Entry, Ledger

THRESHOLDS = "thresholds/stage/best_f1.yaml"  # of runner=evaluate; for --config-dir
FAILURES, INPUTS, SKIPPED = "failures.jsonl", "inputs.jsonl", "skipped.jsonl"


def write_lists(directory: Path, ledger: Ledger) -> None:
    """Replace ``inputs.jsonl`` and ``failures.jsonl`` with what the ledger holds."""
    with replaced(directory / INPUTS) as file:
        for entry in ledger.entries():
            write_line(file, input_line(entry))
    write_failures(directory, ledger)


def write_failures(directory: Path, ledger: Ledger) -> None:
    """Replace ``failures.jsonl`` with what the ledger holds."""
    with replaced(directory / FAILURES) as file:
        for entry in ledger.entries(with_error=True):
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
    numbers = {"frames": entry.frames, "dropped": entry.dropped}
    if entry.image_id is not None:
        numbers["image_id"] = entry.image_id
    return asset_keys(entry.id) | version | numbers


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


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """Open a file of lines for appending; an incomplete last line is terminated."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    with open(open_file(path, flags), "rb+", buffering=0) as file:  # noqa: PTH123
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        yield file
