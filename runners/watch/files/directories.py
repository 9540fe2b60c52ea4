"""Folders and files by descriptor, so that no link below a root is followed out of it."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_RENAME_NOREPLACE = 1
_MAX_NAME_BYTES = 255


class NotAFolderError(NotADirectoryError):
    """A part of a path is a link or not a folder; ``str()`` names it."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def opened(root: Path | int, parts: Iterable[str] = (), *, make: bool = False) -> Iterator[int]:
    """Open a folder one part of its path at a time, and yield its descriptor.

    Args:
        root: A path, which may be a link or be behind one, or the descriptor of a folder.
        parts: The names below it; none of them may be a link.
        make: Create missing folders.

    Raises:
        NotAFolderError: One of the parts is a link or a file.
        OSError: A folder does not exist, or cannot be opened or created.
    """
    folder = os.dup(root) if isinstance(root, int) else os.open(root, _OPEN_FOLDER)
    path = "" if isinstance(root, int) else os.fspath(root)
    try:
        for part in parts:
            path = f"{path}/{part}" if path else part
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            try:
                inner = os.open(part, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            except OSError as exc:
                if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                what = "a symbolic link, which is not followed" if is_link(folder, part) else None
                text = f"{path} is {what or 'not a folder'}"
                raise NotAFolderError(errno.ENOTDIR, text) from exc
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


def is_link(folder: int, name: str) -> bool:
    """Return whether a name in a folder is a symbolic link."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def exists(folder: int, name: str) -> bool:
    """Return whether a folder has this name, even if it is a dangling link."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def digest(descriptor: int) -> str:
    """Return the SHA-256 of an open file's content, in hexadecimal digits."""
    sha256, offset = hashlib.sha256(), 0
    while block := os.pread(descriptor, 1 << 20, offset):
        sha256.update(block)
        offset += len(block)
    return sha256.hexdigest()


def numbered(name: str, room: int = 0) -> Iterator[str]:
    """Yield a name, then ``x~2.jpg``, ``x~3.jpg`` ...

    Args:
        name: A file name, or a path that ends with one.
        room: Number of bytes to leave for a suffix of the file name.
    """
    yield name
    parent, slash, base = name.rpartition("/")
    path = Path(base)
    n = 2
    while True:
        end = os.fsencode(f"~{n}{path.suffix}")
        stem = os.fsencode(path.stem)[: _MAX_NAME_BYTES - room - len(end)]
        yield f"{parent}{slash}{os.fsdecode(stem + end)}"
        n += 1


def rename_new(folder: int, name: str, other: int, new: str) -> None:
    """Rename a file into another folder of the file system, without replacing a file there.

    Raises:
        FileExistsError: The new name exists.
        OSError: The file cannot be renamed; it stays in its place.
    """
    rename = _renameat2()
    if rename is not None:
        if not rename(folder, os.fsencode(name), other, os.fsencode(new), _RENAME_NOREPLACE):
            return
        number = ctypes.get_errno()
        if number not in _NOT_SUPPORTED:
            raise OSError(number, os.strerror(number), name)
    try:
        os.link(name, new, src_dir_fd=folder, dst_dir_fd=other, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
    else:
        os.unlink(name, dir_fd=folder)
        return
    # No support for either: replace an empty file that no other process can have created.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    os.close(os.open(new, flags, 0o666, dir_fd=other))
    try:
        os.rename(name, new, src_dir_fd=folder, dst_dir_fd=other)
    except BaseException:
        os.unlink(new, dir_fd=other)
        raise


@lru_cache
def _renameat2() -> Callable[..., int] | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [*([ctypes.c_int, ctypes.c_char_p] * 2), ctypes.c_uint]
    return function
