"""Whether the ledger is, byte for byte, what the run before closed.

Its entries have checksums, but to check a million of them takes seconds that a resumed run does not
have to spare. So when a ledger is closed, the CRC-32 of the file is put into the header, where
SQLite keeps four bytes for the application. A flipped bit anywhere, or a run that was killed, and
it does not fit any more: then all is verified one by one.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from pipeline.system.descriptors import open_file

_AT, _LENGTH = 68, 4  # "application ID" in SQLite's file format
_BLOCK = 1 << 20


def is_sealed(path: Path) -> bool:
    """Return whether a closed ledger is as it was sealed."""
    descriptor = open_file(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, _LENGTH, _AT) == _digest(descriptor)
    finally:
        os.close(descriptor)


def seal(path: Path) -> None:
    """Seal a closed ledger. A power cut may undo that, which costs only time.

    Raises:
        OSError: It cannot be read or written.
        OutputError: It is no regular file any more.
    """
    # not while SQLite has it open: closing another descriptor of a file frees SQLite's locks on it
    descriptor = open_file(path, os.O_RDWR)
    try:
        os.pwrite(descriptor, _digest(descriptor), _AT)
    finally:
        os.close(descriptor)


def _digest(descriptor: int) -> bytes:
    crc, at = 0, 0
    while block := os.pread(descriptor, _BLOCK, at):
        if not at:
            block = block[:_AT] + bytes(_LENGTH) + block[_AT + _LENGTH :]
        crc = zlib.crc32(block, crc)
        at += len(block)
    return crc.to_bytes(_LENGTH, "big")
