"""Which inputs were in work when a process died: one of them may have killed it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.system.descriptors import open_file, remove

NAME = ".in_flight"


class InFlight:
    """Names in ``<output>/.in_flight`` what is begun and not committed, while the block runs.

    An orderly end leaves nothing there, so what a run finds there was in work when the one before
    it died: a crash of the decoder, ``kill -9``, the kernel short of memory. These suspects are
    decoded in processes of their own; most are innocent, and lose nothing by it. The note outlives
    the process, which is enough: the disk is never waited for, and where it is full the run goes on
    without. Inputs are begun on one thread at a time and ended on another, without a lock.

    Attributes:
        suspects: Ids that the last run died with, or left as suspects.

    Args:
        output: The output directory, locked.

    Raises:
        OSError: The note cannot be opened.
        OutputError: It is no regular file.
    """

    def __init__(self, output: Path) -> None:
        self._path = output / NAME
        self._file = open_file(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        with open(self._file, "rb", closefd=False) as file:
            self.suspects = set(ids(file))
        self._open = dict.fromkeys(self.suspects)

    def __enter__(self) -> InFlight:
        """Go on."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        """Remove the note; if the run was broken off, leave suspects that it did not come to."""
        for asset_id in self._open.keys() - self.suspects:
            del self._open[asset_id]
        self.end(())
        os.close(self._file)
        if kind is None or not self._open:
            remove(self._path)

    def begin(self, asset_id: str) -> None:
        """Note an input, before anything is done to it."""
        self._open[asset_id] = None  # first: ``end`` on the other thread may cut off the line
        self._write((asset_id,))

    def end(self, asset_ids: Iterable[str]) -> None:
        """Strike out inputs that are committed."""
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
    """Yield the ids in a note's lines."""
    for line in lines:
        with suppress(ValueError):  # one that was cut off
            if isinstance(asset_id := json.loads(line), str):
                yield asset_id
