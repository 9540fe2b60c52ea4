"""Versions of files: the ones that arrive, and the ones that are processed already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Arrival:
    """One version of a file that is complete.

    Attributes:
        id: Path relative to the watched folder, ``/`` separators.
        path: Absolute path.
        size: Size in bytes when the file was found complete.
        mtime_ns: Modification time in nanoseconds; identifies the version, never its age.
        inode: Inode of the file; 0 if unknown.
        is_retry: Whether this version was returned before and could not be decoded.
    """

    id: str
    path: Path
    size: int
    mtime_ns: int
    inode: int = 0
    is_retry: bool = False

    def is_current(self) -> bool:
        """Return whether the file still exists in this version."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        is_same = (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)
        return is_same and self.inode in (0, status.st_ino)


@dataclass(slots=True)
class Candidate:
    """A file that is not processed yet, or was returned recently.

    Attributes:
        first_check: Number of the check that saw the file first; files are returned in this
            order.
        since_s: When the current version was first seen, or when it was returned.
        wait_s: Seconds that the version must stay unchanged.
        last_check: Number of the last check of the file.
        version: Size, mtime_ns and inode; ``None`` for a dangling link.
        reason: Why the file is not returned although it has not changed.
        handed_out: Whether this version was returned.
        is_retry: Whether this version was returned before and could not be decoded.
    """

    first_check: int
    since_s: float
    wait_s: float
    last_check: int = 0
    version: tuple[int, int, int] | None = None
    reason: str | None = None
    handed_out: bool = False
    is_retry: bool = False


class Versions:
    """The latest version of each file, in about 130 MB for a million files.

    Names and versions are stored as 64-bit hashes. If two names share a hash (probability 1e-5
    among twenty million), their files are returned more often than necessary; none is lost.
    """

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}
        self._seen: dict[int, int] | None = None

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, asset_id: str, size: int, mtime_ns: int) -> None:
        """Set the latest version of a file."""
        key, version = _key(asset_id), _version(size, mtime_ns)
        self._latest[key] = version
        if self._seen is not None:
            self._seen[key] = version

    def is_latest(self, asset_id: str, size: int, mtime_ns: int) -> bool:
        """Return whether this version of the file was added last."""
        key, version = _key(asset_id), _version(size, mtime_ns)
        if self._latest.get(key) != version:
            return False
        if self._seen is not None:
            self._seen[key] = version
        return True

    def remove(self, asset_id: str) -> None:
        """Forget a file."""
        self._latest.pop(_key(asset_id), None)

    @contextmanager
    def pruned(self) -> Iterator[None]:
        """Forget, when the block ends without an error, what it has neither added nor found."""
        self._seen = {}
        try:
            yield
            self._latest = self._seen
        finally:
            self._seen = None


def _key(asset_id: str) -> int:
    return int.from_bytes(blake2b(os.fsencode(asset_id), digest_size=8).digest(), "little")


def _version(size: int, mtime_ns: int) -> int:
    return int.from_bytes(blake2b(b"%d %d" % (size, mtime_ns), digest_size=8).digest(), "little")
