"""Restores a run directory from the last checkpoint in an object store."""

from __future__ import annotations

from pathlib import Path

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.errors import OutputError
from pipeline.system.descriptors import names_in, open_to_read, remove
from pipeline.system.files import replaced
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.lock import NAME as LOCK
from runners.rundir.remote.checkpoint import Checkpoint, Piece, piece_of
from runners.rundir.remote.mirror import download
from runners.rundir.remote.owner import Owner
from runners.rundir.remote.store import ObjectStore
from runners.rundir.remote.uploads import is_uploaded, mark_of

_PART = ".remote-restore.part"


def restore(store: ObjectStore, owner: Owner, checkpoint: Checkpoint, output: Path) -> int:
    """Replace a run directory by what a checkpoint names; return the number of files.

    A restoration that is interrupted is repeated by the next run.

    Raises:
        OutputError: The store cannot be reached, or an object is missing or damaged.
        OSError: The disk fails.
    """
    for name in names_in(output):
        if name != LOCK:
            remove(output / name)
    wanted = [
        name
        for name in store.sizes()
        if is_uploaded(name)
        and name != PREDICTIONS
        and (name in checkpoint.files or name.startswith(checkpoint.outputs))
    ]
    download(store, output, wanted)
    _join(store, checkpoint.journal, output / PREDICTIONS)
    _join(store, (checkpoint.ledger,), output / LEDGER)  # last: it says that there is a run
    owner.marks = {
        name: mark for name in checkpoint.files if (mark := mark_of(output, name)) is not None
    }
    owner.adopt()
    return len(wanted) + 2


def _join(store: ObjectStore, pieces: tuple[Piece, ...], path: Path) -> None:
    part = path.with_name(_PART)
    try:
        with replaced(path) as file:
            for piece in pieces:
                store.download(piece.name, part)
                if piece_of(part, piece.name) != piece:
                    raise OutputError(
                        f"'{store.shown}': {piece.name} is damaged: it is not what the checkpoint "
                        "names; choose another output"
                    )
                with open_to_read(part) as content:
                    while block := content.read(1 << 20):
                        file.write(block)
    finally:
        remove(part)
