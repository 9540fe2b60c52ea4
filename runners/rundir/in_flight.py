"""Records the inputs in flight, because one of them may have killed a process that died."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.system.descriptors import open_file, remove

NAME = ".in_flight"


class InFlight:
    """Lists in ``<output>/.in_flight`` the inputs that are started and not committed.

    A run that ends normally removes the file. So the inputs that a run finds in it were in flight
    when the previous run died: a crash of the decoder, ``kill -9``, or out of memory. These
    suspects are decoded in worker processes; most are innocent, and are processed as usual. The
    file only has to outlive the process, so it is never synced, and a full disk does not stop the
    run. One thread adds inputs while another removes them, without a lock.

    Attributes:
        suspects: Ids that were in flight when the last run died, or that it left as suspects.

    Args:
        output: The output directory, locked.

    Raises:
        OSError: The file cannot be opened.
        OutputError: It is not a regular file.
    """

    def __init__(self, output: Path) -> None:
        self._path = output / NAME
        self._file = open_file(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        with open(self._file, "rb", closefd=False) as file:
            self.suspects = set(ids(file))
        self._open = dict.fromkeys(self.suspects)

    def __enter__(self) -> InFlight:
        """Return the list, which is already open."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        """Remove the file; if the run failed, keep the suspects that it did not reach."""
        for asset_id in self._open.keys() - self.suspects:
            del self._open[asset_id]
        self.discard(())
        os.close(self._file)
        if kind is None or not self._open:
            remove(self._path)

    def add(self, asset_id: str) -> None:
        """Add an input, before it is opened."""
        self._open[asset_id] = None  # first: ``discard`` on the other thread may truncate the file
        self._write((asset_id,))

    def discard(self, asset_ids: Iterable[str]) -> None:
        """Remove inputs that are committed."""
        for asset_id in asset_ids:
            self._open.pop(asset_id, None)
        with suppress(OSError):
            os.ftruncate(self._file, 0)
        self._write(list(self._open))

    def _write(self, asset_ids: Iterable[str]) -> None:
        text = "".join(json.dumps(asset_id) + "\n" for asset_id in asset_ids)
        with suppress(OSError):
            os.write(self._file, text.encode("ascii"))


def ids(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the ids in the lines of the file."""
    for line in lines:
        with suppress(ValueError):  # a truncated line
            if isinstance(asset_id := json.loads(line), str):
                yield asset_id
