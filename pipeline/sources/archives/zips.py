"""Lists the members of a zip; if its member list is missing or damaged, those that remain."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator

from pipeline.sources.archives.listing import Listing
from pipeline.sources.part import ENCRYPTED
from pipeline.system.files import RegularFile

_ENCRYPTED = 0x2041  # traditional, strong, masked headers
_SIZES_FOLLOW = 0x8
_UTF8 = 0x800
_HEADER = struct.Struct("<4s2xHH4xIIIHH")
_SIGNATURE = b"PK\3\4"
_ZIP64 = 0xFFFFFFFF


def list_zip(file: RegularFile, listing: Listing) -> None:
    """Add the members to the listing.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        # ValueError: a name that is not UTF-8, or an impossible offset
        _recover(file, listing)
        listing.lose("truncated or damaged zip: its member list is missing")
        return
    overlapping = set(map(id, _overlapping(members)))
    for member in members:
        if member.is_dir():
            continue
        method = member.compress_type
        reason = "overlaps another member" if id(member) in overlapping else None
        kind = stat.S_IFMT(member.external_attr >> 16) if member.create_system == 3 else 0
        if kind not in (0, stat.S_IFREG):
            reason = "link" if kind == stat.S_IFLNK else "not a regular file"
        if member.flag_bits & _ENCRYPTED:
            method = ENCRYPTED
        place = member.header_offset, member.file_size, member.compress_size, method, member.CRC
        listing.add(_slashes(member.filename), reason, place)


def _overlapping(members: list[zipfile.ZipInfo]) -> Iterator[zipfile.ZipInfo]:
    """Yield the members whose data overlaps that of another one, as in a zip bomb."""
    end = 0
    for member in sorted(members, key=lambda each: each.header_offset):
        if member.header_offset < end:
            yield member
        else:
            end = member.header_offset + member.compress_size


def _recover(file: RegularFile, listing: Listing) -> None:
    """Add the members whose headers, which precede their data, are intact."""
    for name, place in _local_headers(file):
        if not name.endswith("/"):
            listing.add(_slashes(name), None, place)


def _local_headers(file: RegularFile) -> Iterator[tuple[str, tuple[int, ...]]]:
    offset = 0
    while True:
        file.seek(offset)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return
        signature, flags, method, crc, stored, size, name_size, extra_size = _HEADER.unpack(header)
        if signature != _SIGNATURE or flags & _SIZES_FOLLOW or _ZIP64 in (stored, size):
            return
        raw = file.read(name_size)
        if len(raw) < name_size:
            return
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437", "surrogateescape")
        yield name, (offset, size, stored, ENCRYPTED if flags & _ENCRYPTED else method, crc)
        offset += len(header) + name_size + extra_size + stored


def _slashes(name: str) -> str:
    """Return a name with slashes; some tools on Windows write backslashes."""
    return name.replace("\\", "/") if "/" not in name else name
