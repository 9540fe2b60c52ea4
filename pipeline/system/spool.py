"""Keeps lines of bytes in bounded memory: large ones are spooled to a file."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any, BinaryIO
from weakref import finalize

from pipeline.errors import OutputError
from pipeline.system.descriptors import create_file, open_to_read, parent_of, remove
from pipeline.system.files import TEMPORARY

_MAX_BYTES = 1 << 20


class Spool:
    """Lines that are kept in memory up to a bound and beyond it in a temporary file.

    ``close`` removes the file, and so does garbage collection. A process that is killed leaves it
    behind; its name is that of a temporary file, so the next run removes it.

    A pickled spool is complete. It names its file instead of holding its content: the receiver
    needs the same file system, and whoever calls ``close`` first removes the file for all.

    Attributes:
        n_lines: Number of lines.
        n_bytes: Total size of the lines.

    Args:
        directory: Directory of the temporary file; by default the system's.
        max_bytes: Lines of this total size stay in memory; by default 1 MiB.
    """

    def __init__(self, directory: Path | None = None, max_bytes: int | None = None) -> None:
        self.n_lines = self.n_bytes = 0
        self._directory = directory
        self._max_bytes = _MAX_BYTES if max_bytes is None else max_bytes
        self._lines: list[bytes] = []
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._removal: finalize[..., Spool] | None = None

    def append(self, line: bytes) -> None:
        """Add a line, which ends with its only newline.

        Raises:
            OSError: The file cannot be written.
        """
        self.n_lines += 1
        self.n_bytes += len(line)
        if self._file is not None:
            self._file.write(line)
            return
        self._lines.append(line)
        if self.n_bytes > self._max_bytes:
            self._file = self._create()
            self._file.writelines(self._lines)
            self._lines = []

    def __iter__(self) -> Iterator[bytes]:
        """Yield the lines; can be repeated until ``close``.

        Raises:
            OSError: The file cannot be written or read.
        """
        if self._path is None:
            yield from self._lines
            return
        if self._file is not None:
            self._file.flush()
        with open_to_read(self._path) as file:
            yield from file

    def close(self) -> None:
        """Free the memory and remove the file; can be repeated."""
        self._lines = []
        if self._removal is not None:
            self._removal()
        elif self._path is not None:  # a copy
            _remove(self._path)

    def _create(self) -> BinaryIO:
        name = f".{secrets.token_hex(8)}{TEMPORARY}"
        self._path = (self._directory or Path(gettempdir())) / name
        with parent_of(self._path) as (directory, _):
            file = open(create_file(self._path, directory, name), "wb")  # noqa: PTH123, SIM115
        self._removal = finalize(self, _remove, self._path, file)
        self._removal.atexit = False  # the exit handler would run in forks too
        return file

    def __getstate__(self) -> dict[str, Any]:
        if self._file is not None:
            self._file.close()
        if self._removal is not None:
            self._removal.detach()  # the file is the receiver's now
        self._file = self._removal = None
        return self.__dict__


def _remove(path: Path, file: BinaryIO | None = None) -> None:
    if file is not None:
        with suppress(OSError):  # what is still in its buffer is no longer needed
            file.close()
    with suppress(OSError, OutputError):
        remove(path)
