"""The only writer of ``predictions.jsonl`` during a run: appends complete assets."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from pipeline.encoding import NAME, renumbered
from pipeline.errors import OutputError
from pipeline.system.descriptors import check_named, open_file
from pipeline.system.files import sync_folder

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Position:
    """The end of the intact part of ``predictions.jsonl``.

    Attributes:
        size: Size of the complete assets in bytes.
        next_image_id: Image id of the next frame.
    """

    size: int = 0
    next_image_id: int = 1


class Journal:
    """Appends the lines of whole assets to ``<directory>/predictions.jsonl``.

    Attributes:
        position: Position of the next asset's lines.

    Args:
        directory: The run directory.
        position: The end of what earlier runs committed; entering truncates the file there.
    """

    def __init__(self, directory: Path, position: Position = Position()) -> None:
        self.path = directory / NAME
        self.position = position
        self._file: FileIO | None = None

    def __enter__(self) -> Journal:
        """Open the file and truncate it at ``position``.

        Raises:
            OutputError: It is shorter than that, was modified, or is not a regular file.
        """
        size = self.position.size
        # unbuffered: after a failed write nothing is left in a buffer for close() to write again
        self._file = file = FileIO(open_file(self.path, os.O_RDWR | os.O_CREAT), "r+")
        try:
            found = file.seek(0, os.SEEK_END)
            if found < size:
                raise OutputError(
                    f"'{self.path}' is shorter than the {size} bytes that were committed. Run the "
                    "same command with runner=repair to keep the intact results"
                )
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                raise OutputError(
                    f"'{self.path}' was modified by another program. Run the same command with "
                    "runner=repair to keep the intact results"
                )
            if found > size:  # otherwise the file would count as written by this run
                file.truncate(size)
            file.seek(size)
            sync_folder(self.path.parent)  # its name may be new, or a killed run's
        except BaseException:
            self._file = None
            file.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Make the file durable and close it."""
        file, self._file = self._file, None
        if file is not None:
            with file:
                if os.fstat(file.fileno()).st_size > file.tell():
                    file.truncate()  # what a failed write left after the last whole asset
                os.fsync(file.fileno())

    def append(self, lines: Iterable[bytes], image_id: int | None = None) -> None:
        """Append the lines of an asset, all or none. They are durable after ``sync``.

        Args:
            lines: The encoded lines, to which their image ids are added.
            image_id: Image id of the first line; ``None`` to continue counting.

        Raises:
            OSError: The file cannot grow; it still ends with the last whole asset.
        """
        if self._file is None:
            raise RuntimeError("Journal.append: enter the journal first")
        start, size, number = self.position, self.position.size, 0
        first = start.next_image_id if image_id is None else image_id
        try:
            chunk: list[bytes] = []
            waiting = 0
            for line in renumbered(lines, first):
                number += 1
                chunk.append(line)
                waiting += len(line)
                if waiting >= _CHUNK:
                    size += self._write(b"".join(chunk))
                    chunk, waiting = [], 0
            size += self._write(b"".join(chunk))
        except BaseException as exc:
            self._rewind(start)
            if isinstance(exc, OSError) and exc.filename is None:
                exc.filename = str(self.path)
            raise
        self.position = Position(size, start.next_image_id + (number if image_id is None else 0))

    def sync(self) -> None:
        """Make the appended lines durable.

        Raises:
            OSError: The disk fails.
            OutputError: The file was moved or deleted during the run.
        """
        if self._file is not None:
            os.fsync(self._file.fileno())
            check_named(self.path, self._file.fileno())

    def _write(self, data: bytes) -> int:
        assert self._file is not None
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        return len(data)

    def _rewind(self, start: Position) -> None:
        assert self._file is not None
        self._file.seek(start.size)
        with suppress(OSError):  # the error that led here says more
            self._file.truncate(start.size)
