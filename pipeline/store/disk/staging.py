"""Folders that appear in the store whole or not at all, whoever else writes and whenever one dies.

What is being written or removed has a name that no model can have, and its writer holds a lock on
it; so what has no lock is left over from a process that is gone.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STAGING = ".staging-"
_REMOVED = ".deleting-"
_PARTS = "*.part"  # of pipeline.system.files.replaced


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold a folder's lock while the block runs; gives its descriptor.

    Raises:
        BlockingIOError: Another process holds it, and ``wait`` is false.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def staged(parent: Path) -> Iterator[Path]:
    """Make a folder in ``parent``; it is removed when the block ends, unless it was renamed."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"{_STAGING}{secrets.token_hex(8)}"
    with locked(parent):  # so that none sees it without its lock
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def removed(folder: Path) -> Path:
    """Take a folder out of sight in one step; the caller deletes what is returned."""
    hidden = folder.with_name(f"{_REMOVED}{secrets.token_hex(8)}")
    folder.rename(hidden)
    return hidden


def left_over(root: Path) -> list[Path]:
    """Delete what processes that are gone have left in a store, and return what it was."""
    found: list[Path] = []
    links = [path for path in root.glob("*/") if path.is_symlink()]  # a model on another disk
    for parent in (Path(place) for top in (root, *links) for place, _, _ in os.walk(top)):
        try:
            with locked(parent, wait=False):
                found += _swept(parent)
        except (BlockingIOError, FileNotFoundError):
            continue  # in use, or swept with its parent
    return found


def _swept(parent: Path) -> Iterator[Path]:
    for pattern in (f"{_STAGING}*", f"{_REMOVED}*"):
        for folder in sorted(parent.glob(pattern)):
            try:
                with locked(folder, wait=False):
                    shutil.rmtree(folder)
            except BlockingIOError:
                continue
            yield folder
    for part in sorted(parent.glob(_PARTS)):
        if not _is_alive(part.suffixes[-2:-1]):
            part.unlink(missing_ok=True)
            yield part


def _is_alive(suffixes: list[str]) -> bool:
    """Tell whether the process lives whose number is in a file's name, ``.<mark>.<pid>.part``."""
    try:
        os.kill(int(suffixes[0][1:]), 0)
    except (IndexError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True
