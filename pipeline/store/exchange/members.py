"""Reads the members of archives: tar, plain or compressed with xz, gzip or bzip2, and zip.

``tarfile`` and ``zipfile`` only decode single headers and members here, within limits.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.errors import printable
from pipeline.models.foreign import ForeignFileError, describe, describe_text

MAX_BYTES = 16 << 30  # of an archive's content
MAX_RATIO = 100  # of the content's size to the archive's ...
FREE_BYTES = 64 << 20  # ... for contents larger than this
MAX_HEADER = 64 << 10  # bytes of a PAX header in a tar
MAX_DIRECTORY = 1 << 20  # bytes of the member list of a zip
MAX_MEMORY = 128 << 20  # to decompress xz; its strongest preset uses half of that
BLOCK = 1 << 18

# a PAX header must not override the name, size or content of the header after it
_OVERRIDE = re.compile(rb" (path=|size=|GNU\.sparse|SCHILY\.realsize)")

Read = Callable[[int], bytes]  # returns up to that many bytes
Member = tuple[str, bool, int, int, Read]  # name, whether it is a directory, mode, size, reader


class RefusedError(Exception):
    """The archive contains something that no stored model has."""


def size_limit(size: int) -> int:
    """Return the maximum size of the content of an archive of the given size, in bytes."""
    return min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * size))


def shorten(text: str) -> str:
    """Return a text, cut to a length that fits into a message."""
    return printable(text)[:200]


class BoundedFile(io.BufferedReader):
    """Limits the member list of a zip, which ``zipfile`` reads at once at any declared length."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes."""
        if size is not None and size > MAX_DIRECTORY:
            raise RefusedError(f"its member list has {size} bytes")
        return super().read(size)


def read_members(file: io.BufferedReader) -> Iterator[Member]:
    """Return the members of an archive; its format is detected from the content.

    Raises:
        ForeignFileError: The file is not an archive.
        RefusedError: The archive contains something that no stored model has.
        Exception: The archive is damaged; ``EOFError``, ``OSError``, ``tarfile.TarError`` ...
    """
    limit = size_limit(os.fstat(file.fileno()).st_size)
    start = file.read(tarfile.BLOCKSIZE)
    file.seek(0)
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_members(file, limit)
    if start.startswith(b"\xfd7zXZ\0"):
        return _tar_members(_counted(io.BufferedReader(_Xz(file)).read, limit))
    if start.startswith(b"\x1f\x8b"):
        return _tar_members(_counted(gzip.GzipFile(fileobj=file).read, limit))
    if start.startswith(b"BZh"):
        return _tar_members(_counted(bz2.BZ2File(file).read, limit))
    if start[257:262] == b"ustar":
        return _tar_members(_counted(file.read, limit))
    if what := describe(start) or describe_text(start):
        raise ForeignFileError(what)
    raise RefusedError("it is not a tar, tar.xz, tar.gz, tar.bz2 or zip file")


class _Xz(io.RawIOBase):
    """Decompresses xz within ``MAX_MEMORY``, because ``lzma.open`` has no such option."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data and not self._decoder.eof:
            block = self._file.read(BLOCK) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not block:
                raise EOFError("unexpected end of file")
            data = self._decoder.decompress(block, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _counted(read: Read, limit: int) -> Read:
    """Limit the bytes read from an archive, including headers and padding."""
    left = limit

    def counted(size: int) -> bytes:
        nonlocal left
        data = read(size)
        left -= len(data)
        if left < 0:
            raise RefusedError(f"it unpacks to more than {limit} bytes, too many for its size")
        return data

    return counted


def _tar_members(read: Read) -> Iterator[Member]:
    extended = False
    while (block := read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        member = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        size, name = member.size, shorten(member.name)
        if member.type == tarfile.XHDTYPE and 0 <= size <= MAX_HEADER and not extended:
            if _OVERRIDE.search(read(size + -size % tarfile.BLOCKSIZE)):
                raise RefusedError(f"'{name}' declares a long name, a huge file or a sparse file")
            extended = True  # at most one per member, otherwise they could be endless
            continue
        extended = False
        known = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
        if not known or size < 0 or (size and member.isdir()):
            raise RefusedError(f"'{name}' is not a plain file or directory with a short name")
        if any(b"\0" in field.rstrip(b"\0") for field in (block[:100], block[345:500])):
            raise RefusedError(f"'{name}' has data after its name")
        yield member.name, member.isdir(), member.mode, size, read
        read(-size % tarfile.BLOCKSIZE)
    while rest := read(BLOCK):  # to the end, where decompressors verify their checksums
        if rest.strip(b"\0"):
            raise RefusedError("it has data after its end")


def _zip_members(file: io.BufferedReader, limit: int) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.header_offset < 0 for member in members):
            raise zipfile.BadZipFile("negative offset")
        # reading a member stops at its declared size, whatever it decompresses to
        if sum(member.file_size for member in members) > limit:
            raise RefusedError(f"it unpacks to more than {limit} bytes, too many for its size")
        for member in members:
            name, mode = member.orig_filename, member.external_attr >> 16
            is_directory = name.endswith("/")
            if stat.S_IFMT(mode) not in (0, stat.S_IFDIR if is_directory else stat.S_IFREG):
                raise RefusedError(f"'{shorten(name)}' is not a plain file or directory")
            # deflate is the only compression that zipfile reads in small pieces
            plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if not plain or member.flag_bits & 0x2041:
                raise RefusedError(
                    f"'{shorten(name)}' is encrypted or has an unsupported compression"
                )
            with archive.open(member) as source:
                yield name, is_directory, mode, member.file_size, source.read
