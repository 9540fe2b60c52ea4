"""Directories that appear in the store atomically, despite concurrent writers and crashes.

A directory that is being written or removed has a name that no model can have, and its writer holds
a lock on it. So directories without a lock are leftovers of a process that ended.
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
    """Hold a directory's lock while the block runs; yields its descriptor.

    Raises:
        BlockingIOError: Another process holds the lock, and ``wait`` is false.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def staged(parent: Path) -> Iterator[Path]:
    """Create a directory in ``parent``; it is removed when the block ends, unless renamed."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"{_STAGING}{secrets.token_hex(8)}"
    with locked(parent):  # so that no process sees the directory without its lock
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def hide(folder: Path) -> Path:
    """Rename a directory atomically so that it is no model; returns the new path, to be deleted."""
    hidden = folder.with_name(f"{_REMOVED}{secrets.token_hex(8)}")
    folder.rename(hidden)
    return hidden


def remove_leftovers(root: Path) -> list[Path]:
    """Delete and return the leftovers of processes that ended."""
    found: list[Path] = []
    links = [path for path in root.glob("*/") if path.is_symlink()]  # a model on another disk
    for parent in (Path(place) for top in (root, *links) for place, _, _ in os.walk(top)):
        try:
            with locked(parent, wait=False):
                found += _remove_in(parent)
        except (BlockingIOError, FileNotFoundError):
            continue  # in use, or removed with its parent
    return found


def _remove_in(parent: Path) -> Iterator[Path]:
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
    """Return whether the process in a file name, ``.<mark>.<pid>.part``, is running."""
    try:
        os.kill(int(suffixes[0][1:]), 0)
    except (IndexError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True
