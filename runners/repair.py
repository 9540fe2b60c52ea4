"""``runner=repair``: rebuilds a damaged ledger, so that the next run can resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.encoding import columns_digest
from pipeline.errors import LedgerDamagedError, OutputError, PartialError
from pipeline.job import Job, Report
from pipeline.sharding import parse_shard
from pipeline.system.descriptors import check_regular, open_to_read, remove, rename
from pipeline.system.files import asset_id_of
from pipeline.system.terminal import print_stdout
from runners.rundir.journal import Position
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.rundir.ledger.source_files import SourceFile, SourceFiles
from runners.rundir.lists import FAILURES, INPUTS
from runners.rundir.lock import locked
from runners.rundir.owned.names import recorded_outputs
from runners.rundir.translation import output_errors

_ERROR = ("step", "error", "message", "attempts")  # why an input is not done in full
_DAMAGED = f"{LEDGER}.damaged"


@dataclass
class Repair:
    """Rebuilds ``ledger.sqlite`` from ``predictions.jsonl``, ``inputs.jsonl`` and ``run.json``.

    A result is kept if its lines are intact and ``inputs.jsonl`` has the SHA-256 of its input. The
    next run processes everything else again, failures included. The damaged ledger is renamed to
    ``ledger.sqlite.damaged``.

    Attributes:
        shard: ``k/n``: repair that shard of the output; ``None``: the output itself.
    """

    shard: str | None = None

    def __post_init__(self) -> None:
        if self.shard is not None:
            parse_shard(self.shard)

    def run(self, job: Job) -> Report:
        """Rebuild the ledger; the input is not read.

        Raises:
            OutputLockedError: A run has locked the output.
            OutputError: The output has no record of a run, was written by another version of d2run,
                or cannot be written.
        """
        output = job.output
        if not output.is_dir() or not any(output.iterdir()):
            raise OutputError(
                f"output {output}: there is no run to repair; set output= to the directory of a run"
            )
        with locked(output), output_errors(output):
            settings, inputs, moved = _recorded(output / "run.json")
            outputs = recorded_outputs(output, None)
            with suppress(LedgerDamagedError):
                if check_regular(output / LEDGER):  # opening raises if in use or of another version
                    Ledger(output / LEDGER).__exit__()
            position, entries = _whole(output)
            _rename_damaged(output)
            with Ledger(output / LEDGER) as ledger:
                ledger.set_fact("settings", settings)
                ledger.set_fact("inputs", inputs)
                ledger.set_fact("outputs", outputs)
                ledger.put(entries.values())
                if moved:  # files of these names are new inputs, unless their content is the same
                    files = SourceFiles(ledger)
                    files.put(SourceFile(asset_id, asset_id, gone=True) for asset_id in entries)
                ledger.commit(position)
        print_stdout(
            f"{len(entries)} intact results kept; run the same command without runner=repair to "
            "process the rest"
        )
        return Report(0, output, {"kept": len(entries)})


def _recorded(record: Path) -> tuple[dict[str, Any], Any, bool]:
    """Return the settings, the inputs, and whether source files were moved or deleted."""
    try:
        with open_to_read(record) as file:
            content = json.load(file)
        settings = dict(content["settings"])
        after = content.get("config", {}).get("runner", {}).get("after", "keep")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise OutputError(
            f"'{record}' does not record the settings of the results, so they cannot be kept; run "
            "with runner.on_change=restart to start from scratch"
        ) from exc
    return settings, content.get("inputs"), after != "keep"


def _whole(output: Path) -> tuple[Position, dict[str, Entry]]:
    """Return the end of the intact predictions, and an entry for each result that is kept."""
    versions = {
        asset_id_of(line): line
        for line in _lines(output / INPUTS, {"outcome", "size", "sha256", "frames", "dropped"})
        if line["outcome"] == "done"
    }
    partial = {
        asset_id_of(line): line
        for line in _lines(output / FAILURES, {*_ERROR})
        if line["error"] == PartialError.__name__
    }
    entries: dict[str, Entry] = {}
    size, next_image_id, before = 0, 1, None
    for record, length in _whole_lines(output / PREDICTIONS):
        asset_id = asset_id_of(record)
        entry = entries.get(asset_id)
        if entry is None or asset_id != before:  # a later result supersedes an earlier one
            columns = columns_digest(record.get("columns"))
            entry = Entry(asset_id, len(entries), "done", start=size, columns=columns)
            entries[asset_id] = entry
        entry.length += length
        entry.frames += 1
        size += length
        next_image_id = max(next_image_id, record["image_id"] + 1)
        before = asset_id
    known = {
        asset_id: _of_version(entry, versions[asset_id], partial.get(asset_id, {}))
        for asset_id, entry in entries.items()
        if versions.get(asset_id, {}).get("sha256")
        # the last asset may lack some of its lines
        and versions[asset_id]["frames"] - versions[asset_id]["dropped"] == entry.frames
    }
    return Position(size, next_image_id), known


def _of_version(entry: Entry, line: dict[str, Any], partial: dict[str, Any]) -> Entry:
    return replace(
        entry,
        size=line["size"],
        sha256=line["sha256"],
        frames=line["frames"],
        dropped=line["dropped"],
        image_id=line.get("image_id"),
        **{key: partial[key] for key in _ERROR if key in partial},
    )


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the records of a file and their lengths in bytes, up to the first damaged line."""
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


def _lines(path: Path, keys: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the intact lines of a list beside the results."""
    with suppress(FileNotFoundError), open_to_read(path) as file:
        for text in file:
            with suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and keys | {"asset"} <= set(line):
                    yield line


def _rename_damaged(output: Path) -> None:
    with suppress(FileNotFoundError):
        rename(output / LEDGER, output / _DAMAGED)
    remove(output / f"{LEDGER}-journal")
