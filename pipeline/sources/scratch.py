"""A directory for temporary copies of inputs that a decoder can only read from a file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import finalize

from pipeline.errors import DecodeError
from pipeline.system.files import locked_folder
from pipeline.system.os_errors import describe_os_error

_PREFIX = "d2run-scratch-"


class Scratch:
    """Files in a new directory below ``TMPDIR``, which is created when it is first needed.

    It is removed at the end of the process. A process that is killed leaves it behind, and the next
    one removes it: a directory is in use as long as it is locked. Can be used on several threads.
    Unpickling gives the one of that process.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers = count()
        self._path: Path | None = None
        self._owner = 0

    def __reduce__(self) -> Any:
        """Return how another process gets one."""
        return _shared, ()

    @contextmanager
    def file(self) -> Iterator[Path]:
        """Yield the path of a new file, which need not be created, and is removed afterwards.

        Raises:
            DecodeError: The directory cannot be created.
        """
        path = self.new()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def new(self) -> Path:
        """Return the path of a new file.

        Raises:
            DecodeError: The directory cannot be created.
        """
        with self._lock:
            # a fork must not share the directory of its parent
            if self._path is None or self._owner != os.getpid():
                try:
                    self._create()
                except OSError as exc:
                    raise _cannot(exc) from exc
            assert self._path is not None
            return self._path / str(next(self._numbers))

    def write(self, path: Path, data: bytes) -> None:
        """Write a file.

        Raises:
            DecodeError: It cannot be written.
        """
        try:
            path.write_bytes(data)
        except OSError as exc:
            raise _cannot(exc) from exc

    def _create(self) -> None:
        self._path, lock = locked_folder(_PREFIX, Path(tempfile.gettempdir()))
        self._owner = os.getpid()
        finalize(self, _remove, self._path, lock, self._owner)


@cache
def _shared() -> Scratch:
    return Scratch()


def _remove(path: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            os.close(lock)


def _cannot(exc: OSError) -> DecodeError:
    return DecodeError(
        f"cannot write a temporary copy in '{tempfile.gettempdir()}': {describe_os_error(exc)} "
        "(set TMPDIR to a directory with free space)"
    )
