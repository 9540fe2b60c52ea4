"""The part of an archive that holds an image: a member of a zip or of an uncompressed tar."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.errors import DecodeError

STORED, DEFLATED = 0, 8
ENCRYPTED = -1
CHANGED = "the archive changed after it was listed; run again"

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of the name, of the extra field
_SIGNATURE = b"PK\3\4"


@dataclass(frozen=True, slots=True)
class Part:
    """Where the content of an image is in an archive.

    Attributes:
        offset: Position in bytes: of the content in a tar, of the member's local header in a zip.
        size: Size of the content in bytes.
        archive_size: Size of the archive in bytes when it was listed.
        mtime_ns: Modification time of the archive in nanoseconds since 1970 when it was listed.
        stored: Size in bytes as stored in a zip.
        method: Compression method of a zip, or ``ENCRYPTED``; ``None`` in a tar.
        crc: CRC-32 of the content in a zip.
    """

    offset: int
    size: int
    archive_size: int
    mtime_ns: int
    stored: int = 0
    method: int | None = None
    crc: int = 0

    @property
    def memory(self) -> int:
        """The larger of the sizes that are held in memory, in bytes."""
        return max(self.size, self.stored)

    def check(self, status: os.stat_result) -> None:
        """Check that the archive is the one that was listed.

        Raises:
            DecodeError: It changed, so the part may be anything.
        """
        if (status.st_size, status.st_mtime_ns) != (self.archive_size, self.mtime_ns):
            raise DecodeError(CHANGED)

    def read(self, file: BinaryIO) -> bytes:
        """Return the content of the member; never more than ``size`` bytes.

        Raises:
            DecodeError: The member is encrypted, truncated or damaged, or its compression is not
                supported.
        """
        if self.method is None:
            return _read_at(file, self.offset, self.size)
        if self.method == ENCRYPTED:
            raise DecodeError("encrypted in the archive; unpack it with its password")
        if self.method not in (STORED, DEFLATED):
            raise DecodeError(
                f"the archive's compression method {self.method} is not supported; pack it again "
                "with deflate, or without compression"
            )
        header = _read_at(file, self.offset, _LOCAL_HEADER.size)
        signature, name_size, extra_size = _LOCAL_HEADER.unpack(header)
        if signature != _SIGNATURE:
            raise DecodeError("damaged archive (the member is not where the archive says)")
        start = self.offset + len(header) + name_size + extra_size
        data = _read_at(file, start, self.stored)
        if self.method == DEFLATED:
            data = self._inflated(data)
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise DecodeError("damaged in the archive (its checksum differs)")
        return data

    def _inflated(self, data: bytes) -> bytes:
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
        except zlib.error as exc:
            raise DecodeError(f"damaged in the archive ({exc})") from exc


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise DecodeError("truncated archive (it ends within the member)")
    return data
