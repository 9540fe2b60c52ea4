"""Members of archives as assets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DecodeError
from pipeline.sources.archives.gzip_blocks import GzipBlocks
from pipeline.sources.archives.listing import Member
from pipeline.sources.asset import ImageAsset
from pipeline.sources.copies import read_copy
from pipeline.sources.decode.reading import Reading, Version, check_bytes, read_bytes
from pipeline.sources.part import Part
from pipeline.sources.scratch import Scratch
from pipeline.system.os_errors import describe_os_error


@dataclass(frozen=True, slots=True)
class Place:
    """A version of an archive.

    Attributes:
        path: Its absolute path.
        size_bytes: Its size.
        mtime_ns: Its modification time in nanoseconds since 1970.
    """

    path: Path
    size_bytes: int
    mtime_ns: int


@dataclass(slots=True)
class MemberAsset(ImageAsset):
    """An image in a zip or an uncompressed tar.

    Attributes:
        member: Where it is in the archive.
        place: The archive.
    """

    member: Member = field(init=False)
    place: Place = field(init=False)

    @property
    def path(self) -> Path:
        """The path of the archive, followed by the name of the member; there is no such file."""
        return self.place.path / self.member.id

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def status(self) -> tuple[int, int]:
        """Return the size of the member, and the modification time of the archive."""
        return self.member.size, self.place.mtime_ns

    def _version(self) -> Version:
        return self._bytes()[1]

    def _bytes(self) -> tuple[bytes, Version]:
        return read_bytes(self.place.path, max_pixels=self.max_pixels, part=self._part())

    def _reading(self) -> Reading:
        return self.reader(
            self.place.path, exif=self.exif, max_pixels=self.max_pixels, part=self._part()
        )

    def _part(self) -> Part:
        _, offset, size, stored, method, crc = self.member
        archive = self.place.size_bytes, self.place.mtime_ns
        return Part(offset, size, *archive, stored, method, crc)


@dataclass(slots=True)
class PackedAsset(MemberAsset):
    """An image in a ``.tar.gz``, which is decompressed to a temporary file.

    Attributes:
        blocks: The content of the archive.
        scratch: Where the temporary file is.
    """

    blocks: GzipBlocks = field(init=False, repr=False)
    scratch: Scratch = field(init=False, repr=False)

    def _bytes(self) -> tuple[bytes, Version]:
        with self._unpacked() as path:
            data, (size, _, sha256) = read_bytes(path, max_pixels=self.max_pixels)
        return data, (size, self.place.mtime_ns, sha256)

    def _reading(self) -> Reading:
        with self._unpacked() as path:
            return read_copy(
                self.reader,
                path,
                self.place.mtime_ns,
                exif=self.exif,
                max_pixels=self.max_pixels,
            )

    @contextmanager
    def _unpacked(self) -> Iterator[Path]:
        check_bytes(self.member.size, self.max_pixels)
        try:
            data = self.blocks.read(self.member.offset, self.member.size)
        except OSError as exc:
            raise DecodeError(describe_os_error(exc)) from exc
        if len(data) < self.member.size:
            raise DecodeError("truncated or damaged archive (it ends within the member)")
        with self.scratch.file() as path:
            self.scratch.write(path, data)
            del data
            yield path
