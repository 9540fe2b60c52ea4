"""Lists the members of a tar, uncompressed or unpacked by ``gzip_blocks``."""

from __future__ import annotations

import tarfile
from typing import Any, Protocol

from pipeline.sources.archives.listing import Listing

_MAX_READ = 1 << 20  # bytes of an extended header, which ``tarfile`` reads at once
_FREE_BYTES = 1 << 30
_MAX_RATIO = 200


class TarStream(Protocol):
    """What ``tarfile`` needs of a file."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""
        ...

    def seek(self, offset: int, /) -> int:
        """Move to a position."""
        ...

    def tell(self) -> int:
        """Return the position."""
        ...


class _Bounded:
    """Limits what ``tarfile`` can read at once, and how far."""

    def __init__(self, file: TarStream, limit: int) -> None:
        self._file, self._limit = file, limit
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _MAX_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        if self._file.tell() > self._limit:
            raise tarfile.ReadError("it unpacks to far more than its size")
        return self._file.read(size)


def list_tar(file: TarStream, size: int, listing: Listing) -> None:
    """Add the members to the listing, in order.

    Args:
        file: The uncompressed tar, at its start.
        size: Size of the archive on disk in bytes, which limits what it may unpack to.
        listing: Where they are added.

    Raises:
        OSError: The file cannot be read.
    """
    bounded: Any = _Bounded(file, max(_FREE_BYTES, _MAX_RATIO * size))
    try:
        with tarfile.TarFile(fileobj=bounded, encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                if not member.isdir():
                    place = member.offset_data, member.size
                    listing.add(member.name, _reason(member), place)
            # tarfile ends at a damaged header as it does at the end
            file.seek(tar.offset)
            block = file.read(tarfile.BLOCKSIZE)
        if block.strip(b"\0"):
            listing.lose(f"damaged tar: no valid header at byte {tar.offset}")
        elif not block:
            listing.lose("the tar has no end mark; it may be truncated")
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as exc:
        listing.lose(f"truncated or damaged tar ({exc})")


def _reason(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "link"
    if member.issparse():
        return "sparse file"
    return None if member.isreg() else "not a regular file"
