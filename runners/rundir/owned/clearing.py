"""Removes the results of earlier runs, and nothing else, from an output directory."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.errors import OutputError
from pipeline.protocols import Sink
from pipeline.recorded.manifest import NAME as MANIFEST
from pipeline.recorded.run import EVALUATION
from pipeline.recorded.signing import SIGNATURES
from pipeline.sources import ImageAsset
from pipeline.system.descriptors import check_regular, names_in, open_to_read, remove, status_of
from pipeline.system.files import asset_id_of, output_name
from pipeline.system.output_folder import OutputFolder
from runners.rundir import in_flight
from runners.rundir.input_order import ORDERED
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.lists import FAILURES, INPUTS, THRESHOLDS
from runners.rundir.owned.aggregates import built_files
from runners.rundir.owned.names import LISTS, Outputs, all_names

_OF_EVERY_RUN = (
    *LISTS, MANIFEST, *SIGNATURES, EVALUATION, THRESHOLDS, ORDERED, in_flight.NAME,
)  # fmt: skip
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}(-\d+\.\d+)?\.part")
_NUMBERED = re.compile(r"\d{3,}(_.+)?\.\w+")  # of a frame or an instance


def clear(output: Path, sinks: Mapping[str, Sink], recorded: Outputs) -> None:
    """Remove the results of earlier runs, so that none of them passes for a result of this run.

    In a directory that a sink owns, only what the names of recorded inputs lead to is removed, and
    then the directories that became empty; all other files stay. The ledger is removed last: until
    then the call can be repeated.

    Args:
        output: The directory, locked.
        sinks: Sinks of this run by name; those that earlier runs had too remove their own files.
        recorded: Names that the sinks and aggregates of the earlier runs own.

    Raises:
        OutputError: A directory on the way is a symbolic link.
        OSError: Something cannot be removed.
    """
    folder = OutputFolder(output)
    directories = {
        part: [name[:-1] for name in names if name.endswith("/") and _is_there(output / name)]
        for part, names in recorded.items()
    }
    suffixes = {name: _suffixes(output / name) for names in directories.values() for name in names}
    parents = set[PurePosixPath]()
    for asset_id in _ids(output):
        base = output_name(asset_id, "")
        for part, names in directories.items():
            for name in names:
                parents.update(PurePosixPath(f"{name}/{base}").parents)
            if not _discard(output, sinks.get(part), names, asset_id):
                for name in names:
                    _remove_outputs(folder, name, asset_id, suffixes[name])
    for name in built_files(output):
        _remove_file(output / name)
        parents.update(PurePosixPath(name).parents)
    parents.discard(PurePosixPath("."))
    for directory in parents:
        with suppress(OSError, OutputError):
            for name in names_in(output / directory):
                if _TEMPORARY.fullmatch(name):  # of a run that was killed
                    folder.remove(f"{directory}/{name}")
    for directory in sorted(parents, key=lambda path: len(path.parts), reverse=True):
        folder.remove_empty(str(directory))
    files = [name for name in all_names(recorded) if not name.endswith("/")]
    for name in (*files, *_OF_EVERY_RUN, f"{LEDGER}-journal", LEDGER):
        _remove_file(output / name)


def _is_there(path: Path) -> bool:
    return status_of(path) is not None


def _suffixes(directory: Path) -> set[str]:
    """Return the suffixes of the files in a directory and below."""
    return {
        os.path.splitext(name)[1]  # noqa: PTH122
        for _, _, names in os.walk(directory)
        for name in names
    } - {""}


def _discard(output: Path, sink: Sink | None, names: list[str], asset_id: str) -> bool:
    """Let a sink of this run remove its outputs of an asset; return whether it did."""
    if sink is None or not {f"{name}/" for name in names} <= set(sink.outputs):
        return False
    has_frames = any((output / name / output_name(asset_id, "")).is_dir() for name in names)
    try:
        sink.discard(ImageAsset(asset_id, asset_id, is_still=not has_frames))
    except OutputError:
        raise
    except Exception:  # the part may need to be entered first
        return False
    return True


def _remove_outputs(folder: OutputFolder, name: str, asset_id: str, suffixes: set[str]) -> None:
    """Remove what an asset's name leads to in a directory: a file, or numbered files."""
    for suffix in suffixes:
        folder.remove(f"{name}/{output_name(asset_id, suffix)}")
    frames = f"{name}/{output_name(asset_id, '')}"
    if not suffixes or not (folder.root / frames).is_dir():
        return
    for each in names_in(folder.root / frames):
        if _NUMBERED.fullmatch(each):
            folder.remove(f"{frames}/{each}")
    folder.remove_empty(frames)


def _remove_file(path: Path) -> None:
    status = status_of(path)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        remove(path)


def _ids(output: Path) -> Iterator[str]:
    """Yield the ids of all inputs that the files of the output name, each at least once."""
    with suppress(FileNotFoundError), open_to_read(output / in_flight.NAME) as file:
        yield from in_flight.ids(file)  # started and not committed
    with suppress(OutputError):  # a damaged ledger; the lists hold nearly the same
        if check_regular(output / LEDGER) is not None:
            with Ledger(output / LEDGER) as ledger:
                yield from (entry.id for entry in ledger.entries())
                return
    for name in (INPUTS, FAILURES, PREDICTIONS):
        yield from _listed(output / name)


def _listed(path: Path) -> Iterator[str]:
    previous = None
    with suppress(FileNotFoundError), open_to_read(path) as file:
        for line in file:
            with suppress(ValueError, KeyError, TypeError):
                asset_id = asset_id_of(json.loads(line))
                if asset_id != previous:
                    yield asset_id
                previous = asset_id
