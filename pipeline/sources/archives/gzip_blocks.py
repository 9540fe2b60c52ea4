"""Random access to the content of a gzip file, without unpacking all of it to memory or disk."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from pipeline.errors import DecodeError
from pipeline.sources.part import CHANGED
from pipeline.system.files import RegularFile

_CHUNK = 1 << 18  # compressed bytes that are read at once
_MIN_BLOCK, _MAX_BLOCK = 4 << 20, 32 << 20
_CHECKPOINTS = 1024  # about; each takes 40 KiB
_CACHED = 3


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """The state of decompression at the start of a block."""

    inflate: Any
    position: int  # of the next compressed byte to read
    pending: bytes  # read and not decompressed


class GzipBlocks:
    """The content of a gzip file in blocks, each decompressed when it is needed.

    The first pass over the content stores a checkpoint of the decompressor per block. Later reads
    start from the nearest checkpoint, and the last blocks are cached, so that reading in order
    decompresses each block once. Can be used on several threads at once. Pickled, it is its
    arguments: another process decompresses for itself.

    Args:
        path: The file.
        version: Its size in bytes and its modification time in ns since 1970; of any other version,
            nothing is read.
    """

    def __init__(self, path: Path, version: tuple[int, int]) -> None:
        self._path, self._version = path, version
        self._block_size = min(_MAX_BLOCK, max(_MIN_BLOCK, self._version[0] // _CHECKPOINTS))
        self._checkpoints = [_Checkpoint(_inflate(), 0, b"")]
        self._is_complete = False
        self._cached: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> Any:
        """Return how another process gets them."""
        return _shared, (self._path, self._version)

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes of the content; fewer at its end or before damage.

        Raises:
            OSError: The file cannot be read.
            DecodeError: The file changed.
        """
        pieces = []
        with self._lock:
            while size > 0:
                block, start = divmod(offset, self._block_size)
                piece = self._block(block)[start : start + size]
                if not piece:
                    break
                pieces.append(piece)
                offset += len(piece)
                size -= len(piece)
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        while number >= len(self._checkpoints):
            if self._is_complete:
                return b""
            self._decompress(len(self._checkpoints) - 1)
        if number not in self._cached:
            self._decompress(number)
        self._cached.move_to_end(number)
        return self._cached[number]

    def _decompress(self, number: int) -> None:
        """Decompress a block into the cache; store the checkpoint after it if it is new."""
        with RegularFile(self._path) as file:
            if _version(file) != self._version:
                raise DecodeError(CHANGED)
            data, after = self._decompressed(file.fileno(), self._checkpoints[number])
        self._cached[number] = data
        if len(self._cached) > _CACHED:
            self._cached.popitem(last=False)
        if number == len(self._checkpoints) - 1:
            self._is_complete = after is None
            if after is not None:
                self._checkpoints.append(after)

    def _decompressed(
        self, descriptor: int, start: _Checkpoint
    ) -> tuple[bytes, _Checkpoint | None]:
        """Return a block, and the checkpoint after it; ``None`` at the end or at damage."""
        inflate, position, pending = start.inflate.copy(), start.position, start.pending
        pieces, left, is_over = [], self._block_size, False
        while left and not is_over:
            if inflate.eof:  # a gzip file can have several streams, and zeros after the last
                pending = inflate.unused_data.lstrip(b"\0")
                inflate = _inflate()
            if not pending:
                pending = os.pread(descriptor, _CHUNK, position)
                position += len(pending)
            try:
                piece = inflate.decompress(pending, left)
                is_over = not pending and not piece
                pending = inflate.unconsumed_tail
            except zlib.error:
                piece, is_over = b"", True
            pieces.append(piece)
            left -= len(piece)
        after = None if is_over else _Checkpoint(inflate, position, pending)
        return b"".join(pieces), after


@lru_cache(maxsize=2)  # one per archive and process, however many of its members arrive
def _shared(path: Path, version: tuple[int, int]) -> GzipBlocks:
    return GzipBlocks(path, version)


class GzipStream:
    """The content of a gzip file as a file object for reading from start to end.

    Args:
        blocks: The content.
    """

    def __init__(self, blocks: GzipBlocks) -> None:
        self._blocks, self._offset = blocks, 0

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes."""
        data = self._blocks.read(self._offset, size)
        self._offset += len(data)
        return data

    def seek(self, offset: int) -> int:
        """Move to a position."""
        self._offset = offset
        return offset

    def tell(self) -> int:
        """Return the position."""
        return self._offset


def _version(file: RegularFile) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _inflate() -> Any:
    return zlib.decompressobj(zlib.MAX_WBITS | 16)
