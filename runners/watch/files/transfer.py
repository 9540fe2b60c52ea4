"""Moves one file between folders, also to another file system, without overwriting anything."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from pipeline.system.files import sync_open_folder
from runners.watch.files.directories import digest, is_link, rename_new


def move_file(origin: Path, folder: int, name: str, target: int, new_name: str) -> bool:
    """Move a file: it appears complete under its new name before the old one disappears.

    A symbolic link is moved itself and keeps its target.

    Args:
        origin: The folder that a relative link is relative to.
        folder: Descriptor of the folder that the file is in.
        name: Name of the file in ``folder``.
        target: Descriptor of the destination.
        new_name: Name of the file at the destination.

    Returns:
        False if another file has that name; nothing was moved then.

    Raises:
        OSError: The file cannot be moved; it stays in its place.
    """
    try:
        if is_link(folder, name):
            os.symlink(_link_target(origin, folder, name), new_name, dir_fd=target)
        else:
            try:
                rename_new(folder, name, target, new_name)
            except OSError as exc:
                if exc.errno != errno.EXDEV:
                    raise
                _copy(folder, name, target, new_name)
                sync_open_folder(target)  # two file systems keep no order between them
            else:
                return True
    except FileExistsError:
        if not is_same_file(origin, folder, name, target, new_name):
            return False
    os.unlink(name, dir_fd=folder)
    return True


def is_same_file(origin: Path, folder: int, name: str, target: int, new_name: str) -> bool:
    """Return whether the file at the destination is what moving ``name`` there would create.

    Args:
        origin: The argument of ``move_file``, like all others.
        folder: See ``move_file``.
        name: See ``move_file``.
        target: See ``move_file``.
        new_name: See ``move_file``.
    """
    if is_link(folder, name) or is_link(target, new_name):
        with suppress(OSError):
            return os.readlink(new_name, dir_fd=target) == _link_target(origin, folder, name)
        return False
    mine, other = content_digest(folder, name), content_digest(target, new_name)
    return mine == other is not None


def content_digest(folder: int, name: str) -> str | None:
    """Return the SHA-256 of a regular file; ``None`` for anything else."""
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError:
        return None
    try:
        return digest(descriptor) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)


def remove_file(folder: int, name: str) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _link_target(origin: Path, folder: int, name: str) -> str:
    """Return where a link leads, as an absolute path."""
    return str(origin.resolve() / os.readlink(name, dir_fd=folder))


def _copy(folder: int, name: str, target: int, new_name: str) -> None:
    """Copy a file to another file system, with its modes and times."""
    temporary = f".{hashlib.sha256(os.fsencode(new_name)).hexdigest()[:16]}.part"
    remove_file(target, temporary)
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        reading = os.open(name, os.O_RDONLY | flags, dir_fd=folder)
        with open(reading, "rb") as reader:  # noqa: PTH123
            create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags
            writing = os.open(temporary, create, 0o666, dir_fd=target)
            with open(writing, "wb") as writer:  # noqa: PTH123
                shutil.copyfileobj(reader, writer, 1 << 20)
                writer.flush()
                status = os.fstat(reading)
                with suppress(OSError):  # the target's file system may not support them
                    os.fchmod(writing, stat.S_IMODE(status.st_mode))
                    os.utime(writing, ns=(status.st_atime_ns, status.st_mtime_ns))
                os.fsync(writing)
        rename_new(target, temporary, target, new_name)
    finally:
        remove_file(target, temporary)
