"""The children of a process, looked up in /proc, and waiting for what they do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def state(pid: int) -> tuple[str, int]:
    """A process's state and its parent; ``X`` if there is none, ``Z`` for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return fields[0], int(fields[1])


def children(parent: int | None = None) -> set[int]:
    """Those of this process: zombies too, which ``subprocess`` would not know."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return {pid for pid in pids if state(pid)[1] == (parent or os.getpid())}


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.01)
