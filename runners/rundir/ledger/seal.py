"""Detects whether the ledger is, byte for byte, as the last run closed it.

Verifying the checksums of a million entries takes seconds. So when a ledger is closed, the CRC-32
of the whole file is written to its header, into four bytes that SQLite reserves for applications.
If it does not match, because the last run was killed or a bit was flipped, the ledger is verified
row by row.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from pipeline.system.descriptors import open_file
from pipeline.system.files import file_identity

_AT, _LENGTH = 68, 4  # "application ID" in SQLite's file format
_BLOCK = 1 << 20


def is_sealed(path: Path) -> bool:
    """Return whether a closed ledger is unchanged since it was sealed."""
    descriptor = open_file(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, _LENGTH, _AT) == _digest(descriptor)
    finally:
        os.close(descriptor)


def seal(path: Path) -> None:
    """Seal a closed ledger. A power cut may lose the seal, which costs only time.

    Raises:
        OSError: It cannot be read or written.
        OutputError: It is not a regular file.
    """
    # never while SQLite has it open: closing any descriptor of a file releases SQLite's locks on it
    descriptor = open_file(path, os.O_RDWR)
    try:
        os.pwrite(descriptor, _digest(descriptor), _AT)
    finally:
        os.close(descriptor)


def identity_of(status: os.stat_result | None) -> tuple[int, int] | None:
    """Return what identifies a file, given its status; ``None`` if there is none."""
    return None if status is None else file_identity(status)


def _digest(descriptor: int) -> bytes:
    crc, at = 0, 0
    while block := os.pread(descriptor, _BLOCK, at):
        if not at:
            block = block[:_AT] + bytes(_LENGTH) + block[_AT + _LENGTH :]
        crc = zlib.crc32(block, crc)
        at += len(block)
    return crc.to_bytes(_LENGTH, "big")
