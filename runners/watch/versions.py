"""Which version of which file: what arrives, and what is done already."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Arrival:
    """One version of a file that is ready to be read.

    Attributes:
        id: Path relative to the watched folder, ``/`` separators.
        path: Where it lies.
        size: In bytes, as it was when the file was found ready.
        mtime_ns: Its modification time, in nanoseconds; a name for the version, never an age.
    """

    id: str
    path: Path
    size: int
    mtime_ns: int


class Versions:
    """A set of file versions, each kept as 12 bytes: a million of them take about 110 MB."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, asset_id: str, size: int, mtime_ns: int) -> None:
        """Add a version."""
        self._digests.add(_digest(asset_id, size, mtime_ns))

    def holds(self, asset_id: str, size: int, mtime_ns: int) -> bool:
        """Say whether this very version was added."""
        return _digest(asset_id, size, mtime_ns) in self._digests


def _digest(asset_id: str, size: int, mtime_ns: int) -> bytes:
    # 96 bits: of a million files, two share a digest with a probability below 1e-16
    text = os.fsencode(asset_id) + b"\0%d %d" % (size, mtime_ns)
    return blake2b(text, digest_size=12).digest()
