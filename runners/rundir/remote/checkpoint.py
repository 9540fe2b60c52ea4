"""The checkpoint of a run in an object store: a small object that names all it consists of."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.errors import OutputError
from pipeline.system.descriptors import open_to_read
from runners.rundir.remote.store import ObjectStore

FOLDER = ".d2run"
CHECKPOINT, OWNER = f"{FOLDER}/checkpoint.json", f"{FOLDER}/owner.json"
_SCHEMA = 1
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """An object that a checkpoint names; it is never changed while one does.

    Attributes:
        name: Name of the object.
        size: Its size in bytes.
        sha256: SHA-256 of its content, in hexadecimal digits.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What another machine needs to continue a run.

    Attributes:
        ledger: The ledger.
        journal: Its concatenation is ``predictions.jsonl`` up to the ledger's position.
        outputs: Names that the sinks and aggregates own, directories with a ``/``.
        files: The other files of the run directory that the store has.
        id: Distinguishes it from all others.
        host: Name of the machine that wrote it.
        pid: Process id of the run.
        written_s: When it was written, in seconds since 1970.
    """

    ledger: Piece
    journal: tuple[Piece, ...]
    outputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: uuid4().hex)
    host: str = field(default_factory=lambda: socket.gethostname())
    pid: int = field(default_factory=os.getpid)
    written_s: float = field(default_factory=time.time)

    def encoded(self) -> bytes:
        """Return the object's content."""
        return json.dumps({"schema": _SCHEMA} | asdict(self), indent=1).encode() + b"\n"

    def names(self) -> set[str]:
        """Return the names of its pieces."""
        return {each.name for each in (self.ledger, *self.journal)}

    def __str__(self) -> str:
        """Return where and when it was written."""
        when = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(self.written_s))
        return f"{self.host} (process {self.pid}), {when}"


def read_checkpoint(store: ObjectStore) -> Checkpoint | None:
    """Return the checkpoint of an output; ``None`` if there is none.

    Raises:
        OutputError: It is damaged, was written by another version of d2run, or cannot be read.
    """
    content = store.read(CHECKPOINT)
    if content is None:
        return None
    try:
        found: dict[str, Any] = json.loads(content)
        schema = found.pop("schema")
        if schema != _SCHEMA:
            raise OutputError(
                f"'{store.shown}' was written by another version of d2run (schema {schema}, not "
                f"{_SCHEMA}); finish with that version, or choose another output"
            )
        found["ledger"] = Piece(**found["ledger"])
        found["journal"] = tuple(Piece(**each) for each in found["journal"])
        found |= {name: tuple(found[name]) for name in ("outputs", "files")}
        return Checkpoint(**found)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise OutputError(
            f"'{store.shown}': {CHECKPOINT} is damaged; choose another output"
        ) from exc


def owner_of(store: ObjectStore) -> Mapping[str, Any]:
    """Return what the last run that opened an output has written to ``OWNER``."""
    try:
        found = json.loads(store.read(OWNER) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def piece_of(path: Path, name: str, start: int = 0, size: int | None = None) -> Piece:
    """Return the piece that a range of a file would be.

    Args:
        path: The file.
        name: Name of the object.
        start: Offset of the range.
        size: Its size; by default all that follows.
    """
    digest, left = hashlib.sha256(), size
    with open_to_read(path) as file:
        file.seek(start)
        while block := file.read(_CHUNK if left is None else min(_CHUNK, left)):
            digest.update(block)
            left = None if left is None else left - len(block)
        return Piece(name, file.tell() - start, digest.hexdigest())
