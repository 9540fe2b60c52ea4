"""Which version of which file: what arrives, and what is done already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
        inode: Of the file; 0 where it is not known.
        again: Whether it is looked at again because this version could not be decoded.
    """

    id: str
    path: Path
    size: int
    mtime_ns: int
    inode: int = 0
    again: bool = False

    def is_there(self) -> bool:
        """Say whether it is still there, in this version."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        same = (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)
        return same and self.inode in (0, status.st_ino)


@dataclass(slots=True)
class Candidate:
    """A file that is not done, or was handed out a short while ago.

    Attributes:
        order: The look at which it was first seen.
        since_s: When its version was first seen, or when it was handed out.
        looked: The look at which it was last looked at.
        version: Size, mtime_ns and inode; ``None`` for a link to nowhere.
        reason: Why it cannot be handed out however long it stays as it is.
        given: It was handed out in this version.
        wait_s: How long its version must stay, in seconds.
        doubtful: This version was handed out before, and could not be decoded.
    """

    order: int
    since_s: float
    wait_s: float
    looked: int = 0
    version: tuple[int, int, int] | None = None
    reason: str | None = None
    given: bool = False
    doubtful: bool = False


class Versions:
    """The latest version of each file, in about 130 MB for a million of them.

    Ids and versions are kept as 64 bits each. Two ids that share theirs, among twenty million with
    a probability of 1e-5, come up more often than they need to; none is lost.
    """

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}
        self._kept: dict[int, int] | None = None

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, asset_id: str, size: int, mtime_ns: int) -> None:
        """Add a version; it takes the place of the file's earlier one."""
        key, version = _key(asset_id), _version(size, mtime_ns)
        self._latest[key] = version
        if self._kept is not None:
            self._kept[key] = version

    def holds(self, asset_id: str, size: int, mtime_ns: int) -> bool:
        """Say whether this very version is the latest that was added."""
        key, version = _key(asset_id), _version(size, mtime_ns)
        if self._latest.get(key) != version:
            return False
        if self._kept is not None:
            self._kept[key] = version
        return True

    def remove(self, asset_id: str) -> None:
        """Forget a file."""
        self._latest.pop(_key(asset_id), None)

    @contextmanager
    def swept(self) -> Iterator[None]:
        """When the block ends well, forget what it has neither added nor found."""
        self._kept = {}
        try:
            yield
            self._latest = self._kept
        finally:
            self._kept = None


def _key(asset_id: str) -> int:
    return int.from_bytes(blake2b(os.fsencode(asset_id), digest_size=8).digest(), "little")


def _version(size: int, mtime_ns: int) -> int:
    return int.from_bytes(blake2b(b"%d %d" % (size, mtime_ns), digest_size=8).digest(), "little")
