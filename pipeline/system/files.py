"""Atomic replacement of files, reading of regular files, and the names of outputs."""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident
from typing import Any, BinaryIO

from pipeline.system.descriptors import (
    create_file,
    names_in,
    open_directory,
    parent_of,
    remove,
)

_MAX_NAME_BYTES = 255  # NAME_MAX of every common Linux file system
TEMPORARY = ".part"


def expanded(path: str) -> Path:
    """Return an absolute path; a leading ``~`` is expanded unless there is no such user."""
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - that of Path raises


@contextmanager
def replaced(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary sibling of ``path`` and rename it into place when the block ends.

    An error in the block leaves ``path`` as it was and removes the temporary file.

    Args:
        path: The file.
        durable: Wait for the disk, so that the content survives a power cut.

    Raises:
        OutputError: In an output, a directory on the way is a symbolic link, or was deleted.
    """
    # the process id comes last: the store reads it to see whether the writer is still alive
    mark = f"-{get_ident()}.{os.getpid()}"
    with (
        parent_of(path, make=True) as (directory, name),
        replaced_in(path, directory, name, mark, durable=durable) as file,
    ):
        yield file


@contextmanager
def replaced_in(
    path: Path, directory: int, name: str, mark: str = "", *, durable: bool = True
) -> Iterator[BinaryIO]:
    """Do the same in an open directory.

    Args:
        path: The file, for messages.
        directory: Descriptor of the file's directory.
        name: Name of the file in that directory.
        mark: Distinguishes the temporary files of several writers.
        durable: The argument of ``replaced``.
    """
    temporary = f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{mark}{TEMPORARY}"
    try:
        with open(create_file(path, directory, temporary), "wb") as file:  # noqa: PTH123
            # some libraries open files by name
            file.raw.name = str(path.with_name(temporary))  # type: ignore[attr-defined]
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException as exc:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        if isinstance(exc, OSError) and exc.filename == temporary:
            exc.filename, exc.filename2 = str(path), None  # the name that users know
        raise


def remove_temporaries(directory: Path) -> None:
    """Remove the temporary files that a killed process left in a directory of the run.

    Raises:
        OutputError: The directory is a symbolic link.
    """
    for name in names_in(directory):
        if name.startswith(".") and name.endswith(TEMPORARY):
            remove(directory / name)


def write_whole(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write ``path`` atomically: a reader sees the old content or the new."""
    with replaced(path, durable=durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def sync_folder(path: str | Path, *, below: Path | None = None) -> None:
    """Make the names in a folder durable: what was created, renamed or removed there."""
    descriptor = open_directory(Path(path), below=below)
    try:
        sync_open_folder(descriptor)
    finally:
        os.close(descriptor)


def sync_open_folder(descriptor: int) -> None:
    """Make the names in an open folder durable."""
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # the file system does not support syncing folders
            raise


def file_identity(status: os.stat_result) -> tuple[int, int]:
    """Return device and inode: two names with the same identity are the same file."""
    return status.st_dev, status.st_ino


def output_name(asset_id: str, suffix: str, frame: int | None = None) -> str:
    """Return the path of an asset's output in its sink's directory, as unique as the asset id.

    The whole id is kept, extension included, so ``x.jpg`` and ``x.png`` never share a name. The
    path never leads out of the directory, and no part of it is longer than a file name can be.

    Args:
        asset_id: Path relative to the input, ``/`` separators.
        suffix: Appended to the id, such as ``.jpg``.
        frame: Index of a frame, to give each frame a file in a directory of the asset.
    """
    parts = [part for part in asset_id.split("/") if part not in ("", ".")]
    parts = [_harmless(part) for part in parts] or ["_"]
    if frame is None:
        parts[-1] += suffix
    else:
        parts.append(f"{frame:06d}{suffix}")
    return "/".join(_shortened(part, suffix) for part in parts)


def _harmless(part: str) -> str:
    """Replace ``..`` by ``__``; names of underscores only get one more, to stay unique."""
    if part == "..":
        return "__"
    return f"{part}_" if len(part) > 1 and not part.strip("_") else part


def _shortened(name: str, suffix: str) -> str:
    raw = os.fsencode(name)
    if len(raw) <= _MAX_NAME_BYTES:
        return name
    mark = f"~{hashlib.sha256(raw).hexdigest()[:12]}{suffix}"
    kept = raw[: _MAX_NAME_BYTES - len(os.fsencode(mark))]
    # an incomplete character at the end is dropped
    return kept.decode(errors="ignore" if _is_utf8(raw) else "surrogateescape") + mark


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_output_name(name: object) -> bool:
    """Return whether a name in ``outputs`` stays in the run directory; directories end in ``/``."""
    parts = name.removesuffix("/").split("/") if isinstance(name, str) else [""]
    return not {"", ".", ".."} & set(parts)


def asset_keys(asset_id: str, key: str = "asset") -> dict[str, str]:
    """Return an asset's keys in a JSON record: ``asset``, or another ``key``.

    A name that is not UTF-8 is escaped in ``asset``, and ``asset_b64`` holds its bytes.
    """
    raw = os.fsencode(asset_id)
    shown = raw.decode(errors="backslashreplace")
    if shown == asset_id:
        return {key: asset_id}
    return {key: shown, f"{key}_b64": base64.b64encode(raw).decode("ascii")}


def asset_id_of(record: Mapping[str, Any], key: str = "asset") -> str:
    """Return the asset id of a JSON record that was written with ``asset_keys``.

    Args:
        record: The record.
        key: The argument of ``asset_keys``.

    Raises:
        KeyError: The record has no asset id.
        ValueError: It is not text, or its bytes are not Base64.
    """
    if f"{key}_b64" in record:
        return os.fsdecode(base64.b64decode(record[f"{key}_b64"], validate=True))
    if not isinstance(record[key], str):
        raise ValueError(f"{key} is not text")
    asset_id: str = record[key]
    return asset_id


class RegularFile(io.BufferedReader):
    """A regular file, open for reading; data appended after opening is not read.

    Opening never blocks, as it would for a pipe without a writer. ``read`` allocates no more than
    the size of the file, even if a damaged header asks for more.

    Args:
        path: The file, or a link to it.

    Raises:
        OSError: It does not exist, cannot be read, or is a directory, a pipe or a device.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                is_folder = stat.S_ISDIR(found.st_mode)
                what = "it is a folder" if is_folder else "it is a pipe or a device, not a file"
                raise OSError(errno.EINVAL, what, str(path))
            super().__init__(io.FileIO(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        self.size = found.st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes, by default all that are left."""
        left = max(0, self.size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def read_regular(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: It cannot be read, is not a regular file, or is larger.
    """
    with RegularFile(path) as file:
        if file.size > limit:
            raise OSError(errno.EFBIG, f"it has {file.size} bytes, more than {limit}", str(path))
        return file.read()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with RegularFile(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def locked_folder(prefix: str, parent: Path) -> tuple[Path, int]:
    """Create a temporary folder that is locked as long as this process lives.

    Those of the same prefix that are not locked, because their processes were killed, are removed.

    Returns:
        The folder, and the descriptor that holds the lock.

    Raises:
        OSError: It cannot be created.
    """
    for abandoned in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            lock = _locked(abandoned, fcntl.LOCK_NB)
            shutil.rmtree(abandoned, ignore_errors=True)
            os.close(lock)
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):  # another process removed it before it was locked
            return path, _locked(path)


def _locked(path: Path, flags: int = 0) -> int:
    """Lock a directory of this user; return the descriptor that holds the lock."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            raise PermissionError
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        path.stat()  # who held the lock may have removed it
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
