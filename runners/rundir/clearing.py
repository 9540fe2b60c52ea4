"""Remove an earlier run's results, and nothing else, from an output directory."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.encoding import map_name
from pipeline.errors import OutputError
from pipeline.protocols import Sink
from pipeline.sources import ImageAsset
from pipeline.system.descriptors import check_regular, open_to_read, remove, status_of
from pipeline.system.files import RESULT_FOLDERS, asset_id_of, output_name
from pipeline.system.output_folder import OutputFolder
from runners.rundir import in_flight
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.order import FAILURES, INPUTS, SKIPPED

_LISTS = (PREDICTIONS, f".{PREDICTIONS}.ordered", FAILURES, INPUTS, SKIPPED, in_flight.NAME)
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}(-\d+\.\d+)?\.part")
_COCO = ("coco.json", "coco_results.json", "panoptic.json")


def clear(output: Path, sinks: Mapping[str, Sink], aggregates: Mapping[str, Any]) -> None:
    """Remove what earlier runs have written, so that none of it can be taken for this run's.

    What the names of the recorded inputs lead to is removed, and directories that are empty then.
    Any other file stays. The ledger goes last: until then the same call can be repeated.

    Args:
        output: The directory, locked.
        sinks: Of this run, by name; those that the earlier runs had too remove their own files.
        aggregates: Of this run, by name; so too.

    Raises:
        OutputError: A directory on the way is a symbolic link.
        OSError: Something cannot be removed.
    """
    folder = OutputFolder(output)
    written = _sinks_of(output)
    own = [sink for name, sink in sinks.items() if written is None or name in written]
    kinds = [kind for kind in RESULT_FOLDERS if status_of(output / kind) is not None]
    if written is not None and "overlay" not in written:
        kinds = [kind for kind in kinds if kind != "overlay"]
    parents: set[PurePosixPath] = set()
    for asset_id in _ids(output):
        for kind in kinds:
            name = _name(kind, asset_id)
            folder.remove(name)
            parents.update(PurePosixPath(name).parents)
        for sink in own:
            with suppress(Exception):  # it may know nothing of this id
                sink.discard(ImageAsset(asset_id, asset_id))
    for directory in parents:
        with suppress(OSError):
            for name in os.listdir(output / directory):  # noqa: PTH208
                if _TEMPORARY.fullmatch(name):  # of a run that was killed
                    folder.remove(f"{directory}/{name}")
    for directory in sorted(parents, key=lambda path: len(path.parts), reverse=True)[:-1]:
        folder.remove_empty(str(directory))
    known = [
        name
        for key, each in aggregates.items()
        if written is None or key in written
        for name in getattr(each, "files", ())
    ]
    coco = _COCO if written is None or "coco" in written else ()
    for name in (*coco, *known, *_LISTS, f"{LEDGER}-journal", LEDGER):
        status = status_of(output / name)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            remove(output / name)


def _name(kind: str, asset_id: str) -> str:
    """Return the name of what d2run's own sinks write for an image."""
    return (
        f"overlay/{output_name(asset_id, '.jpg')}"
        if kind == "overlay"
        else map_name(kind, asset_id)
    )


def _sinks_of(output: Path) -> list[str] | None:
    """Return the names of the earlier runs' sinks; ``None`` if they are not known."""
    with (
        suppress(OSError, ValueError, KeyError, TypeError),
        open_to_read(output / "run.json") as file,
    ):
        settings = json.load(file)["settings"]
        return [str(name) for name in settings["sinks"]]
    return None


def _ids(output: Path) -> Iterator[str]:
    """Yield the ids of all inputs that the output's files speak of, each at least once."""
    with suppress(FileNotFoundError), open_to_read(output / in_flight.NAME) as file:
        yield from in_flight.ids(file)  # begun, and not committed
    with suppress(OutputError):  # it is damaged: the lists hold nearly the same
        if check_regular(output / LEDGER) is not None:
            with Ledger(output / LEDGER) as ledger:
                yield from (entry.id for entry in ledger.entries())
                return
    for name in (INPUTS, FAILURES, PREDICTIONS):
        yield from _listed(output / name)


def _listed(path: Path) -> Iterator[str]:
    before = None
    with suppress(FileNotFoundError), open_to_read(path) as file:
        for line in file:
            with suppress(ValueError, KeyError, TypeError):
                asset_id = asset_id_of(json.loads(line))
                if asset_id != before:
                    yield asset_id
                before = asset_id
