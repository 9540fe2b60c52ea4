"""Who writes to an output in an object store: one machine at a time, the last one that started."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.errors import OutputError
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import write_whole
from runners.rundir.remote.checkpoint import (
    CHECKPOINT,
    OWNER,
    Checkpoint,
    owner_of,
    read_checkpoint,
)
from runners.rundir.remote.store import ObjectStore
from runners.rundir.remote.uploads import Mark

_STATE = ".remote.json"


class Owner:
    """The last checkpoint as this run directory knows it, and whether the store still has it.

    The run directory remembers the id of the checkpoint that it was last equal to, and of the one
    that replaces it, because a run may be killed in between.

    Args:
        store: Where the copy is.
        output: The run directory.

    Attributes:
        last: The checkpoint in the store; ``None`` if there is none.
        marks: Sizes and times of the files that were uploaded at the end of the last run.
        is_claimed: Whether ``claim`` was called.

    Raises:
        OutputError: The store cannot be reached, or its checkpoint is damaged.
    """

    def __init__(self, store: ObjectStore, output: Path) -> None:
        self._store, self._path = store, output / _STATE
        self._id = uuid4().hex
        self.is_claimed = False
        state = _read(self._path)
        self._ids: list[str] = [str(each) for each in state.get("ids", ())]
        found = state.get("files", {})
        self.marks: Mapping[str, Mark] = {n: (m[0], m[1]) for n, m in found.items()}
        self.last = read_checkpoint(store)

    @property
    def is_new(self) -> bool:
        """Whether the run directory was never equal to a checkpoint."""
        return not self._ids

    @property
    def is_elsewhere(self) -> bool:
        """Whether another run directory has written the last checkpoint."""
        return self.last is not None and self.last.id not in self._ids

    def adopt(self) -> None:
        """Record that the run directory is equal to the last checkpoint."""
        self._ids = [self.last.id] if self.last is not None else []
        self._write()

    def claim(self) -> None:
        """Become the owner.

        Raises:
            OutputError: Another machine has written a checkpoint since this run has read it.
        """
        if self.is_claimed:
            return
        now = read_checkpoint(self._store)
        if now is not None and (self.last is None or now.id != self.last.id):
            raise OutputError(self._refusal(f"{now.host} (process {now.pid})"))
        record = {"id": self._id, "host": socket.gethostname(), "pid": os.getpid()}
        self._store.write(OWNER, json.dumps(record).encode() + b"\n")
        self.is_claimed = True

    def check(self) -> None:
        """Check that this run is still the owner.

        Raises:
            OutputError: Another one is; names its machine.
        """
        found = owner_of(self._store)
        if self.is_claimed and found.get("id") != self._id:
            who = f"{found.get('host', 'another machine')} (process {found.get('pid')})"
            raise OutputError(self._refusal(who))

    def replace(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, the atomic commit in the store.

        Raises:
            OutputError: The store cannot be reached, or refuses.
        """
        self._ids = [*self._ids[-1:], checkpoint.id]
        self._write()
        self._store.write(CHECKPOINT, checkpoint.encoded())
        self.last = checkpoint

    def _refusal(self, who: str) -> str:
        return (
            f"{who} writes to '{self._store.shown}', too; stop one of the two runs, then run the "
            "same command again on either machine"
        )

    def _write(self) -> None:
        state = {"ids": self._ids, "files": self.marks}
        write_whole(self._path, json.dumps(state))


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError), open_to_read(path) as file:
        found = json.load(file)
        return found if isinstance(found, dict) else {}
    return {}
