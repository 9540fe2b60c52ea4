"""Rebuild a damaged ledger from what the output holds, so that the next run can go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.errors import OutputError
from pipeline.job import Job, Report
from pipeline.system.descriptors import check_regular, open_to_read, remove, rename
from pipeline.system.files import asset_id_of
from runners.reporting.console import tell
from runners.rundir.commit import translated
from runners.rundir.journal import Position
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Entry, Ledger, LedgerDamagedError
from runners.rundir.ledger.source_files import SourceFile, SourceFiles
from runners.rundir.lock import locked
from runners.rundir.order import INPUTS

_DAMAGED = f"{LEDGER}.damaged"


@dataclass
class Repair:
    """Makes ``ledger.sqlite`` anew from ``predictions.jsonl``, ``inputs.jsonl`` and ``run.json``.

    A result counts if its lines are whole and ``inputs.jsonl`` says of which content it is; all
    else, failures too, is done again by the next run. The damaged ledger is kept beside the new.
    """

    def run(self, job: Job) -> Report:
        """Carry out the job; nothing of the input is read.

        Raises:
            OutputLockedError: A run is under way there.
            OutputError: The output holds no record of a run, is of another version of d2run, or
                cannot be written.
        """
        output = job.output
        if not output.is_dir() or not any(output.iterdir()):
            raise OutputError(f"there is no output {output} to repair; name one with output=")
        with locked(output), translated(output):
            settings, inputs, moved = _recorded(output / "run.json")
            with suppress(LedgerDamagedError):
                if check_regular(output / LEDGER):  # not one in use, or of a newer version
                    Ledger(output / LEDGER).__exit__()
            position, entries = _whole(output)
            _put_aside(output)
            with Ledger(output / LEDGER) as ledger:
                ledger.state("settings", settings)
                ledger.state("inputs", inputs)
                ledger.put(entries.values())
                if moved:  # a file of such a name is another one, unless it has the same content
                    files = SourceFiles(ledger)
                    files.put(SourceFile(asset_id, asset_id, gone=True) for asset_id in entries)
                ledger.commit(position)
        tell(
            f"{len(entries)} results are whole and stay; now run the job again without "
            "runner=repair, which does the rest"
        )
        return Report(0, output, {"kept": len(entries)})


def _recorded(record: Path) -> tuple[dict[str, Any], Any, bool]:
    """Return the results' settings and inputs, and whether source files were moved or deleted."""
    try:
        with open_to_read(record) as file:
            content = json.load(file)
        settings = dict(content["settings"])
        after = content.get("config", {}).get("runner", {}).get("after", "keep")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise OutputError(
            f"'{record}' does not say with which settings the results were made, so they cannot be "
            "kept; runner.on_change=restart does everything anew"
        ) from exc
    return settings, content.get("inputs"), after != "keep"


def _whole(output: Path) -> tuple[Position, dict[str, Entry]]:
    """Return how far the predictions are whole, and an entry for each result that counts."""
    versions = {
        asset_id_of(line): line for line in _lines(output / INPUTS) if line["outcome"] == "done"
    }
    entries: dict[str, Entry] = {}
    size, next_image_id, before = 0, 1, None
    for record, length in _whole_lines(output / PREDICTIONS):
        asset_id = asset_id_of(record)
        entry = entries.get(asset_id)
        if entry is None or asset_id != before:  # a later result supersedes an earlier one
            entry = entries[asset_id] = Entry(asset_id, len(entries), "done", start=size)
        entry.length += length
        entry.frames += 1
        size += length
        next_image_id = max(next_image_id, record["image_id"] + 1)
        before = asset_id
    known = {
        asset_id: _of_version(entry, versions[asset_id])
        for asset_id, entry in entries.items()
        if versions.get(asset_id, {}).get("sha256")
        # the last asset may have been cut off between its lines
        and versions[asset_id]["frames"] - versions[asset_id]["dropped"] == entry.frames
    }
    return Position(size, next_image_id), known


def _of_version(entry: Entry, line: dict[str, Any]) -> Entry:
    return replace(
        entry,
        size=line["size"],
        sha256=line["sha256"],
        frames=line["frames"],
        dropped=line["dropped"],
    )


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the records of a file and their lengths in bytes, up to what is not whole."""
    with suppress(FileNotFoundError), open_to_read(path) as file:
        for line in file:
            try:
                record = json.loads(line)
                asset_id_of(record), record["image_id"] + 0
            except (ValueError, KeyError, TypeError):
                return
            if not line.endswith(b"\n"):
                return
            yield record, len(line)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of ``inputs.jsonl``; one that is broken is left out."""
    keys = {"asset", "outcome", "size", "sha256", "frames", "dropped"}
    with suppress(FileNotFoundError), open_to_read(path) as file:
        for text in file:
            with suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and keys <= set(line):
                    yield line


def _put_aside(output: Path) -> None:
    with suppress(FileNotFoundError):
        rename(output / LEDGER, output / _DAMAGED)
    remove(output / f"{LEDGER}-journal")
