"""Folders and files by descriptor: nothing below a root leads out of it through a link."""

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

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_RENAME_NOREPLACE = 1
_MAX_NAME_BYTES = 255


class NotAFolderError(NotADirectoryError):
    """A link, or something else that is no folder, is in the way; ``str()`` says which."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def opened(root: Path | int, parts: Iterable[str] = (), *, make: bool = False) -> Iterator[int]:
    """Open a folder step by step, and give its descriptor.

    Args:
        root: A path, which may be a link or lie behind one, or the descriptor of a folder.
        parts: The names on the way down; none of them may be a link.
        make: Create the folders that are not there.

    Raises:
        NotAFolderError: One of the parts is a link or a file.
        OSError: A folder is not there, or cannot be opened or created.
    """
    folder = os.dup(root) if isinstance(root, int) else os.open(root, _FOLDER)
    path = "" if isinstance(root, int) else os.fspath(root)
    try:
        for part in parts:
            path = f"{path}/{part}" if path else part
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            try:
                inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
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
    """Say whether a name in a folder is a symbolic link."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def exists(folder: int, name: str) -> bool:
    """Say whether a folder has this name, be it that of a dangling link."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def digest(descriptor: int) -> str:
    """Return the SHA-256 of an open file's content, in hexadecimal digits."""
    found, at = hashlib.sha256(), 0
    while block := os.pread(descriptor, 1 << 20, at):
        found.update(block)
        at += len(block)
    return found.hexdigest()


def numbered(name: str, room: int = 0) -> Iterator[str]:
    """Yield a name, then ``x~2.jpg``, ``x~3.jpg`` ...

    Args:
        name: Of a file, or a path that ends with one.
        room: How many bytes must be left for what is appended to the file's name.
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
    """Rename a file into another folder of the file system, over nothing that is there.

    Raises:
        FileExistsError: Something is there.
        OSError: It cannot be renamed; it is where it was.
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
    # Neither: over an empty file that nobody else can have made.
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


def sync(folder: int) -> None:
    """Make the names in a folder durable."""
    try:
        os.fsync(folder)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # a file system on which folders cannot be synced
            raise
