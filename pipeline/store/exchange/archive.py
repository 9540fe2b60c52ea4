"""Packs stored models into archives with reproducible bytes, and unpacks untrusted archives.

``tarfile`` decodes single headers and ``zipfile`` single members. The files are written below, not
by their ``extract`` methods, whose checks have had security holes.
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
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import ModelCorruptError, StoreError, did_you_mean
from pipeline.models.foreign import ForeignFileError
from pipeline.store.exchange.members import (
    BLOCK,
    BoundedFile,
    Read,
    RefusedError,
    read_members,
    shorten,
    size_limit,
)
from pipeline.system.files import replaced

FORMATS = {  # with the suffixes of their files; a bare compression is what BentoML calls them
    "tar.xz": (".tar.xz", ".txz", ".xz", ".bentomodel"),
    "tar.gz": (".tar.gz", ".tgz", ".gz"),
    "tar.bz2": (".tar.bz2", ".tbz2", ".tbz", ".bz2"),
    "tar": (".tar",),
    "zip": (".zip",),
}
MAX_MEMBERS = 1000  # files and directories
MAX_DEPTH = 8
MAX_NAME = 100  # with its directories; the length of the field in a tar

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
# raised for damaged archives; gzip and bz2 raise an OSError without errno
_DAMAGED = (EOFError, RuntimeError, ValueError, OSError, lzma.LZMAError, zlib.error)


def format_of(path: str) -> str | None:
    """Return the archive format for a file's suffix; ``None`` for other suffixes."""
    name = path.lower()
    return next((format for format, ends in FORMATS.items() if name.endswith(ends)), None)


def pack(folder: Path, archive: Path, format: str) -> None:
    """Write the files of a directory as an archive; the same files give the same bytes.

    Args:
        folder: Contains only what ``unpack`` accepts. Empty directories in it are skipped.
        archive: The file to write, atomically.
        format: One of ``FORMATS``.

    Raises:
        StoreError: A file cannot be read or written, or ``unpack`` would refuse the archive.
    """
    if format not in FORMATS:
        raise StoreError(f"unknown archive format '{format}'{did_you_mean(format, FORMATS)}")
    try:
        files = _files(folder)
        with replaced(archive) as file:
            size = _write_zip(files, file) if format == "zip" else _write_tar(files, file, format)
            if size > size_limit(file.tell()):
                raise RefusedError(f"{size} bytes are too many for {format}; use zip")
    except RefusedError as exc:
        raise StoreError(f"cannot pack '{folder}': {exc}") from exc
    except OSError as exc:
        raise _failed("pack", folder, archive, exc) from exc


def unpack(archive: Path, folder: Path) -> None:
    """Write the members of an archive to an empty directory, as plain files of the user.

    The format is detected from the content: a tar, plain or compressed with xz, gzip or bzip2, or a
    zip. Nothing outside the directory is changed. After an error, the files written so far remain.

    Raises:
        ModelCorruptError: The archive is damaged or incomplete.
        StoreError: The archive contains something that no stored model has, or a file cannot be
            read or written.
    """
    try:
        if any(folder.iterdir()):
            raise StoreError(f"'{folder}' is not empty; unpack into an empty directory")
        if not archive.is_file():  # opening a FIFO would block
            raise StoreError(f"'{archive}' is not a file; give the path of an archive")
        known: dict[str, str] = {}
        with BoundedFile(io.FileIO(archive)) as file:
            for name, is_directory, mode, size, read in read_members(file):
                # modes are never applied; directories shared by a group can have the setgid bit
                if mode & (0o5000 if is_directory else 0o7000):
                    raise RefusedError(f"'{shorten(name)}' has a setuid, setgid or sticky mode")
                path = folder / _check_name(name, is_directory, known)
                (path if is_directory else path.parent).mkdir(0o755, parents=True, exist_ok=True)
                if not is_directory:
                    _write(path, size, read)
    except ForeignFileError as exc:
        raise ModelCorruptError(f"'{archive}' is {exc}") from None
    except RefusedError as exc:
        raise StoreError(
            f"'{archive}' is refused: {exc}. Only unpack archives of plain files from someone you "
            "trust"
        ) from exc
    except (*_DAMAGED, tarfile.TarError, zipfile.BadZipFile) as exc:
        if isinstance(exc, OSError) and exc.errno:
            raise _failed("unpack", archive, folder, exc) from exc
        raise ModelCorruptError(
            f"'{archive}' is damaged or incomplete ({shorten(str(exc))}); copy or download it again"
        ) from exc


def _failed(verb: str, source: Path, target: Path, exc: OSError) -> StoreError:
    reason = exc.strerror or exc
    return StoreError(
        f"cannot {verb} '{source}' into '{target}': {reason}; check the paths and the free space"
    )


def _check_name(name: str, is_directory: bool, known: dict[str, str]) -> str:
    """Return a member's path in the directory, and add it and its parents to ``known``."""
    path = (name.removesuffix("/") if is_directory else name).removeprefix("./")
    parts = path.split("/")
    is_root = is_directory and path == "."
    if not (is_root or all(map(_PART.fullmatch, parts))):
        raise RefusedError(
            f"'{shorten(name)}' is not a plain path of a-z, A-Z, 0-9, '.', '_' and '-'"
        )
    if len(path) > MAX_NAME or len(parts) > MAX_DEPTH:
        raise RefusedError(f"the name '{shorten(name)}' is too long or too deep")
    # compared in lower case, because some file systems ignore case
    *parents, _ = accumulate(parts, "{}/{}".format)
    clash = any(known.setdefault(parent.lower(), parent) != parent for parent in parents)
    if clash or path.lower() in known:
        raise RefusedError(f"it has two members named '{path}', at least where case is ignored")
    known[path.lower()] = path if is_directory else ""
    if len(known) > MAX_MEMBERS:
        raise RefusedError(f"it has more than {MAX_MEMBERS} files and directories")
    return path


def _files(folder: Path) -> dict[str, Path]:
    known: dict[str, str] = {}
    files = {}
    for path in sorted(folder.rglob("*")):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if stat.S_ISREG(mode):
            files[_check_name(name, False, known)] = path
        elif not stat.S_ISDIR(mode):
            raise RefusedError(f"'{shorten(name)}' is not a plain file or directory")
    return files


def _write_tar(files: dict[str, Path], file: BinaryIO, format: str) -> int:
    with (
        _compressing(file, format) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, path in files.items():
            member = tarfile.TarInfo(name)  # mode 0644, owner and time 0
            member.size = path.stat().st_size
            with path.open("rb") as source:
                tar.addfile(member, source)
    return tar.offset


def _compressing(file: BinaryIO, format: str) -> AbstractContextManager[Any]:
    # the fastest presets: weights hardly compress, and stronger presets take minutes
    if format == "tar.xz":
        return lzma.open(file, "wb", preset=0)
    if format == "tar.gz":
        return gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0)
    return bz2.open(file, "wb", compresslevel=1) if format == "tar.bz2" else nullcontext(file)


def _write_zip(files: dict[str, Path], file: BinaryIO) -> int:
    with zipfile.ZipFile(file, "w") as archive:  # not compressed, for the same reason
        for name, path in files.items():
            member = zipfile.ZipInfo(name)  # time in 1980
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            member.file_size = path.stat().st_size  # 4 GiB or more require another header
            with path.open("rb") as source, archive.open(member, "w") as target:
                shutil.copyfileobj(source, target, BLOCK)
        return sum(member.file_size for member in archive.infolist())


def _write(path: Path, size: int, read: Read) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o644), "wb") as target:
        while size:
            if not (block := read(min(size, BLOCK))):
                raise EOFError(f"'{path.name}' is incomplete")
            size -= target.write(block)
