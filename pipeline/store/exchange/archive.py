"""Archives of one stored model: written the same each time, read as if an enemy had made them.

``tarfile`` decodes single headers and ``zipfile`` single members here; what is written where is
decided below, never by their ``extract``, whose checks have had holes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import ModelCorruptError, StoreError, did_you_mean, printable
from pipeline.models.foreign import ForeignFileError, describe, is_text
from pipeline.system.files import replaced

FORMATS = ("tar.xz", "tar.gz", "zip")
MAX_MEMBERS = 1000  # files and folders
MAX_DEPTH = 8
MAX_NAME = 100  # with its folders; the room that a tar has for it
MAX_BYTES = 16 << 30  # of an archive's content
MAX_RATIO = 100  # of the content's size to the archive's ...
FREE_BYTES = 64 << 20  # ... where there is more content than this
MAX_HEADER = 64 << 10  # bytes of a PAX header in a tar
MAX_DIRECTORY = 1 << 20  # bytes of the list of a zip's members
MAX_MEMORY = 128 << 20  # to decompress xz; what its strongest preset made takes half of it

_SUFFIXES = ((".tar.xz", ".txz", ".bentomodel"), (".tar.gz", ".tgz"), (".zip",))  # by FORMATS
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
# what a PAX header may not say: that the header after it has not the true name, size or content
_OVERRIDE = re.compile(rb" (path=|size=|GNU\.sparse|SCHILY\.realsize)")
_BLOCK = 1 << 18
# for bytes that make no sense; of an OSError, only if it has no number: gzip and bz2 raise those
_BROKEN = (EOFError, RuntimeError, ValueError, OSError, lzma.LZMAError, zlib.error)

_Read = Callable[[int], bytes]  # up to so many bytes
_Member = tuple[str, bool, int, int, _Read]  # name, whether it is a folder, permissions, size


class _RefusedError(Exception):
    """The archive holds what no stored model has."""


def format_of(path: str) -> str | None:
    """Return the format that a file's suffix stands for, ``None`` for any other suffix."""
    pairs = zip(FORMATS, _SUFFIXES, strict=True)
    return next((name for name, ends in pairs if path.lower().endswith(ends)), None)


def pack(folder: Path, archive: Path, format: str) -> None:
    """Write the files of a folder as an archive: the same files give the same bytes.

    Args:
        folder: Holds only what ``unpack`` takes; empty folders in it are left out.
        archive: The file to write, whole or not at all.
        format: One of ``FORMATS``.

    Raises:
        StoreError: It cannot be read or written, or ``unpack`` would refuse it.
    """
    if format not in FORMATS:
        raise StoreError(f"there is no archive format '{format}'{did_you_mean(format, FORMATS)}")
    try:
        files = _files(folder)
        with replaced(archive) as file:
            size = _write_zip(files, file) if format == "zip" else _write_tar(files, file, format)
            if size > _limit(file.tell()):
                raise _RefusedError(f"{size} bytes are too many, at least as {format}; try zip")
    except _RefusedError as exc:
        raise StoreError(f"cannot pack '{folder}': {exc}") from exc
    except OSError as exc:
        raise _failed("pack", folder, archive, exc) from exc


def unpack(archive: Path, folder: Path) -> None:
    """Write what an archive holds into an empty folder, as plain files of the user.

    The content tells the format: a tar, plain or as xz, gzip or bzip2, or a zip. Nothing outside
    the folder is ever touched; after an error, what was written until then is still in it.

    Raises:
        ModelCorruptError: The archive is broken or cut off.
        StoreError: It holds what no stored model has, or cannot be read or written.
    """
    try:
        if any(folder.iterdir()):
            raise StoreError(f"'{folder}' is not empty; unpack into an empty folder")
        if not archive.is_file():  # opening a FIFO would wait
            raise StoreError(f"'{archive}' is no file; give the path of an archive")
        known: dict[str, str] = {}
        with _Bounded(io.FileIO(archive)) as file:
            for name, is_folder, mode, size, read in _members(file):
                # no mode is ever applied; folders that a group shares do have the setgid bit
                if mode & (0o5000 if is_folder else 0o7000):
                    raise _RefusedError(f"'{_shown(name)}' has a setuid, setgid or sticky mode")
                path = folder / _admitted(name, is_folder, known)
                (path if is_folder else path.parent).mkdir(0o755, parents=True, exist_ok=True)
                if not is_folder:
                    _write(path, size, read)
    except ForeignFileError as exc:
        raise ModelCorruptError(f"'{archive}' is {exc}") from None
    except _RefusedError as exc:
        raise StoreError(
            f"'{archive}' is refused: {exc}; have it packed again from plain files, by someone you "
            "trust"
        ) from exc
    except (*_BROKEN, tarfile.TarError, zipfile.BadZipFile) as exc:
        if isinstance(exc, OSError) and exc.errno:
            raise _failed("unpack", archive, folder, exc) from exc
        raise ModelCorruptError(
            f"'{archive}' is broken or cut off ({_shown(str(exc))}); copy it again from its origin"
        ) from exc


def _failed(verb: str, source: Path, target: Path, exc: OSError) -> StoreError:
    reason = exc.strerror or exc
    return StoreError(
        f"cannot {verb} '{source}' into '{target}': {reason}; check the paths and the free space"
    )


def _shown(text: str) -> str:
    return printable(text)[:200]


def _limit(size: int) -> int:
    return min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * size))


def _admitted(name: str, is_folder: bool, known: dict[str, str]) -> str:
    """Return a member's path in the folder, and note it and its parents as ``known``."""
    path = (name.removesuffix("/") if is_folder else name).removeprefix("./")
    parts = path.split("/")
    is_root = is_folder and path == "."
    if not (is_root or all(map(_PART.fullmatch, parts))):
        raise _RefusedError(f"'{_shown(name)}' is no plain path of a-z, A-Z, 0-9, '.', '_' and '-'")
    if len(path) > MAX_NAME or len(parts) > MAX_DEPTH:
        raise _RefusedError(f"the name '{_shown(name)}' is too long or too deep")
    # by names in lower case, as file systems may take for one what differs in case alone
    *parents, _ = accumulate(parts, "{}/{}".format)
    clash = any(known.setdefault(parent.lower(), parent) != parent for parent in parents)
    if clash or path.lower() in known:
        raise _RefusedError(f"two things in it are called '{path}', or are where case is ignored")
    known[path.lower()] = path if is_folder else ""
    if len(known) > MAX_MEMBERS:
        raise _RefusedError(f"it has more than {MAX_MEMBERS} files and folders")
    return path


def _files(folder: Path) -> dict[str, Path]:
    known: dict[str, str] = {}
    files = {}
    for path in sorted(folder.rglob("*")):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if stat.S_ISREG(mode):
            files[_admitted(name, False, known)] = path
        elif not stat.S_ISDIR(mode):
            raise _RefusedError(f"'{_shown(name)}' is neither a plain file nor a folder")
    return files


def _write_tar(files: dict[str, Path], file: BinaryIO, format: str) -> int:
    with (
        # both at their weakest: weights hardly compress, and to try harder takes minutes
        lzma.open(file, "wb", preset=0)
        if format == "tar.xz"
        else gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, path in files.items():
            member = tarfile.TarInfo(name)  # of mode 0644; its owner and time are 0
            member.size = path.stat().st_size
            with path.open("rb") as source:
                tar.addfile(member, source)
    return tar.offset


def _write_zip(files: dict[str, Path], file: BinaryIO) -> int:
    with zipfile.ZipFile(file, "w") as archive:  # not compressed at all, for the same reason
        for name, path in files.items():
            member = zipfile.ZipInfo(name)  # of 1980
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            member.file_size = path.stat().st_size  # as 4 GiB need another header
            with path.open("rb") as source, archive.open(member, "w") as target:
                shutil.copyfileobj(source, target, _BLOCK)
        return sum(member.file_size for member in archive.infolist())


def _write(path: Path, size: int, read: _Read) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o644), "wb") as target:
        while size:
            if not (block := read(min(size, _BLOCK))):
                raise EOFError(f"'{path.name}' ends too early")
            size -= target.write(block)


class _Bounded(io.BufferedReader):
    """``zipfile`` reads the list of members at once, as long as the archive says that it is."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise _RefusedError(f"the list of its members has {size} bytes")
        return super().read(size)


def _members(file: io.BufferedReader) -> Iterator[_Member]:
    limit = _limit(os.fstat(file.fileno()).st_size)
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
    if what := describe(start) or is_text(start):
        raise ForeignFileError(what)
    raise _RefusedError("it is no tar, tar.xz, tar.gz, tar.bz2 or zip")


class _Xz(io.RawIOBase):
    """Decompresses within ``MAX_MEMORY``, for which ``lzma.open`` has no argument."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data and not self._decoder.eof:
            block = self._file.read(_BLOCK) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not block:
                raise EOFError("it ends too early")
            data = self._decoder.decompress(block, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _counted(read: _Read, limit: int) -> _Read:
    """Let so many bytes of an archive be read; headers, padding and all."""
    left = limit

    def counted(size: int) -> bytes:
        nonlocal left
        data = read(size)
        left -= len(data)
        if left < 0:
            raise _RefusedError(f"it unpacks to over {limit} bytes, too many for its size")
        return data

    return counted


def _tar_members(read: _Read) -> Iterator[_Member]:
    extended = False
    while (block := read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        member = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        size, name = member.size, _shown(member.name)
        if member.type == tarfile.XHDTYPE and 0 <= size <= MAX_HEADER and not extended:
            if _OVERRIDE.search(read(size + -size % tarfile.BLOCKSIZE)):
                raise _RefusedError(f"'{name}' is for a long name, a huge file or a sparse one")
            extended = True  # once for each member, or there would be no end of it
            continue
        extended = False
        known = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
        if not known or size < 0 or (size and member.isdir()):
            raise _RefusedError(f"'{name}' is neither a plain file nor a folder, of a short name")
        if any(b"\0" in field.rstrip(b"\0") for field in (block[:100], block[345:500])):
            raise _RefusedError(f"'{name}' has something behind its name")
        yield member.name, member.isdir(), member.mode, size, read
        read(-size % tarfile.BLOCKSIZE)
    while rest := read(_BLOCK):  # to the very end, where decompressors compare their checksums
        if rest.strip(b"\0"):
            raise _RefusedError("something follows its end")


def _zip_members(file: io.BufferedReader, limit: int) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.header_offset < 0 for member in members):
            raise zipfile.BadZipFile("negative offset")
        # what is read of a member ends there, whatever it may decompress to
        if sum(member.file_size for member in members) > limit:
            raise _RefusedError(f"it unpacks to over {limit} bytes, too many for its size")
        for member in members:
            name, mode = member.orig_filename, member.external_attr >> 16
            is_folder = name.endswith("/")
            if stat.S_IFMT(mode) not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG):
                raise _RefusedError(f"'{_shown(name)}' is neither a plain file nor a folder")
            # of what compresses, zipfile takes only deflate in small pieces
            plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if not plain or member.flag_bits & 0x2041:
                raise _RefusedError(f"'{_shown(name)}' is encrypted, or oddly compressed")
            with archive.open(member) as source:
                yield name, is_folder, mode, member.file_size, source.read
