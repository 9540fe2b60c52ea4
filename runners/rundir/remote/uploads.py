"""Keeps the objects of a run equal to its files, on threads of its own."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Condition, Thread

from pipeline.system.descriptors import names_in, open_file, remove, status_of
from pipeline.system.files import TEMPORARY
from runners.rundir.remote.store import ObjectStore

REMOVED = ".remote-removed"  # files whose objects may still have to be removed
_SEGMENTS = ".segments"  # of videos that are not complete
_THREADS = 16
_MAX_WAITING = 512  # then whoever writes waits, so that the store can keep up
Mark = tuple[int, int]  # size in bytes, mtime_ns


class Uploads:
    """Follows the files of a run directory: uploads those that are written, removes the others.

    What a name's object should be is decided when its turn comes: a copy of the file, or nothing if
    there is no file. So it does not matter how often a name is noted, nor in which order.

    Args:
        store: Where the objects are.
        root: The run directory.
        is_complete: Whether every object has a file here. Otherwise, as for a worker on another
            machine, the store is asked what is there before something is removed.

    Attributes:
        folders: First parts of the names that were noted.
    """

    def __init__(self, store: ObjectStore, root: Path, *, is_complete: bool = True) -> None:
        self.root, self.folders = root, set[str]()
        self._store, self._is_complete = store, is_complete
        self._changed = Condition()
        self._number = 0  # of the last note
        self._waiting: dict[str, int] = {}  # numbers of notes, in their order
        self._active: dict[str, int] = {}
        self._done: set[str] = set()  # since the last flush
        self._error: BaseException | None = None
        self._n_threads = self._n_removals = 0
        self._is_closed = False
        self._log: int | None = None

    def written(self, name: str) -> None:
        """Upload a file soon; waits if too many do."""
        if is_uploaded(name):
            self.folders.add(name.partition("/")[0])
            self._note([name])

    def removing(self, name: str) -> list[str]:
        """Return the files with a name or below it, which are removed next."""
        gone = [each for each in _files(self.root, name) if is_uploaded(each)]
        if not self._is_complete and is_uploaded(name):
            with self._changed:
                soon = {each for each in (*self._waiting, *self._active) if _is_in(each, name)}
            gone += (soon | self._store.sizes(name).keys()) - {*gone}
        with self._changed:
            self._n_removals += 1
            if gone and self._log is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._log = open_file(self.root / REMOVED, flags)
            if gone and self._log is not None:
                os.write(self._log, "".join(json.dumps(each) + "\n" for each in gone).encode())
        return gone

    def removed(self, names: Iterable[str]) -> None:
        """Remove the objects of files that are gone."""
        self._note(names)
        with self._changed:
            self._n_removals -= 1

    def recover(self) -> None:
        """Note what a killed run has removed: its objects may still be there."""
        with suppress(FileNotFoundError), open(self.root / REMOVED, "rb") as file:  # noqa: PTH123
            for line in file:
                with suppress(ValueError):  # an incomplete line
                    self._note([json.loads(line)])
            self._log = open_file(self.root / REMOVED, os.O_WRONLY | os.O_APPEND)

    def upload(self, names: Iterable[str]) -> None:
        """Upload files, and wait for that.

        Raises:
            OutputError: The store cannot be reached, or refuses.
        """
        self._note(names)
        self.flush()

    def flush(self) -> dict[str, Mark | None]:
        """Wait until all that was noted before is done.

        Returns:
            What is done since the last call: size and time of each file, ``None`` for removed ones.

        Raises:
            OutputError: The store cannot be reached, or refuses.
        """
        with self._changed:
            last = self._number  # others may go on to note names
            self._changed.wait_for(lambda: self._error or self._first() > last)
            if self._error is not None:
                raise self._error
            done, self._done = self._done, set()
            is_idle = not (self._waiting or self._active or self._n_removals)
            if self._log is not None and is_idle:
                os.close(self._log)
                self._log = None
                remove(self.root / REMOVED)
        return {name: mark_of(self.root, name) for name in done}

    def close(self) -> None:
        """Stop; what is not uploaded yet will not be."""
        self._store.close()
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()
            if self._log is not None:
                os.close(self._log)
                self._log = None

    def _first(self) -> float:
        """Return the number of the first note that is not done."""
        waiting = next(iter(self._waiting.values()), math.inf)
        return min(waiting, *self._active.values(), math.inf)

    def _note(self, names: Iterable[str]) -> None:
        for name in names:
            with self._changed:
                self._changed.wait_for(self._has_room)
                if self._error is not None or self._is_closed:
                    return  # ``flush`` raises it
                self._number += 1
                self._waiting.setdefault(name, self._number)
                if self._n_threads < _THREADS:
                    self._n_threads += 1
                    Thread(target=self._work, name="upload", daemon=True).start()
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._waiting) < _MAX_WAITING or bool(self._error) or self._is_closed

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._next() is not None)
                if self._is_closed:
                    return
                name = self._next()
                assert name is not None
                self._active[name] = self._waiting.pop(name)
            try:
                self._equalize(name)
            except BaseException as exc:  # raised again by ``flush``
                with self._changed:
                    self._error = self._error or exc
                    self._waiting.clear()
            finally:
                with self._changed:
                    del self._active[name]
                    self._done.add(name)
                    self._changed.notify_all()

    def _next(self) -> str | None:
        """Return a name that no thread works on: two could end in the wrong order."""
        return next((name for name in self._waiting if name not in self._active), None)

    def _equalize(self, name: str) -> None:
        path = self.root / name
        with suppress(FileNotFoundError):  # removed meanwhile
            status = status_of(path)
            if status is not None and stat.S_ISREG(status.st_mode):
                self._store.upload(path, name)
                return
        self._store.remove(name)


def is_uploaded(name: str) -> bool:
    """Return whether a file of the run directory is a part of its copy.

    Not the lock, the ledger while it is open, and files that are not complete.
    """
    parts = name.split("/")
    is_hidden = parts[0].startswith(".") and parts[0] != ".hydra"
    is_temporary = parts[-1].startswith(".") and parts[-1].endswith(TEMPORARY)
    return not (is_hidden or is_temporary or _SEGMENTS in parts or parts[0].startswith("ledger."))


def _is_in(name: str, folder: str) -> bool:
    return f"{name}/".startswith(f"{folder}/")


def mark_of(root: Path, name: str) -> Mark | None:
    """Return size and time of a file; ``None`` if there is none."""
    status = status_of(root / name)
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    return status.st_size, status.st_mtime_ns


def local_files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files of a run directory that its copy has, each with its status."""
    for name in names_in(root):
        for each in _files(root, name):
            status = status_of(root / each)
            if status is not None and stat.S_ISREG(status.st_mode) and is_uploaded(each):
                yield each, status


def _files(root: Path, name: str) -> Iterator[str]:
    """Yield a file, or those in a directory and below; links are not followed."""
    status = status_of(root / name)
    if status is None:
        return
    if not stat.S_ISDIR(status.st_mode):
        yield name
        return
    for directory, _, names in os.walk(root / name):
        inner = Path(directory).relative_to(root).as_posix()
        for each in names:
            yield f"{inner}/{each}"
