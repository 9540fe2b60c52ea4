"""Files of an output, opened from a descriptor of its directory: no link below it is followed.

The output itself may be a symbolic link, or be behind one: that is the user's choice. Below it, a
link would lead to files that are not the run's, so each part of a path is opened from the one
before it. Outside an output that is held, the directory that a file is in may be a link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import OutputError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_held: dict[Path, int] = {}


@contextmanager
def held(root: Path, descriptor: int) -> Iterator[None]:
    """Open everything below a directory from its descriptor while the block runs.

    So a run's files stay together when the directory is renamed meanwhile; ``check_held`` notices.

    Args:
        root: The directory, as later paths begin.
        descriptor: Descriptor of that directory; the caller closes it.
    """
    _held[root] = descriptor
    try:
        yield
    finally:
        del _held[root]


def check_held(root: Path) -> None:
    """Check that a held directory still has its name.

    Raises:
        OutputError: It was moved, replaced or deleted, so files opened by name are not in it.
    """
    descriptor = _held.get(root)
    if descriptor is None:
        return
    with suppress(FileNotFoundError, NotADirectoryError):
        if os.path.samestat(os.stat(root), os.fstat(descriptor)):  # noqa: PTH116
            return
    raise OutputError(
        f"the output {root} was moved, replaced or deleted during the run; results since the last "
        "commit are not kept, so move it back, or give its new name as output=, and run again"
    )


def check_named(path: Path, descriptor: int) -> None:
    """Check that an open file of the output still has its name.

    Raises:
        OutputError: It was moved, replaced or deleted.
    """
    status = status_of(path)
    if status is None or not os.path.samestat(status, os.fstat(descriptor)):
        raise OutputError(
            f"'{path}' was moved, replaced or deleted during the run; run the same command with "
            "runner=repair, which keeps the intact results"
        )


def open_directory(path: Path, *, below: Path | None = None, make: bool = False) -> int:
    """Return a descriptor of a directory, which the caller closes.

    Args:
        path: The directory.
        below: Follow no link below this directory, if no held one is above the path.
        make: Make what is missing; never a held directory.

    Raises:
        OutputError: A link is on the way, or a directory was deleted during the run.
    """
    root = next((each for each in (path, *path.parents) if each in _held), None)
    if root is not None:
        directory = os.open(".", _DIRECTORY, dir_fd=_held[root])
    else:
        root = below or path
        if make:
            root.mkdir(parents=True, exist_ok=True)
        directory = os.open(root, _DIRECTORY)
    here = root
    for part in path.relative_to(root).parts:
        try:
            if make:
                _make(here, part, directory)
            here /= part
            inner = _open_part(here, part, directory)
        finally:
            os.close(directory)
        directory = inner
    return directory


def _make(here: Path, part: str, directory: int) -> None:
    with suppress(FileExistsError), _in(here):
        os.mkdir(part, dir_fd=directory)


def _open_part(path: Path, part: str, directory: int) -> int:
    try:
        return os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as exc:
        if exc.errno in (errno.ENOTDIR, errno.ELOOP):
            _refuse_link(path, os.stat(part, dir_fd=directory, follow_symlinks=False))
        exc.filename = str(path)
        raise


@contextmanager
def _in(directory: Path) -> Iterator[None]:
    """Make an OutputError of what is said of a name in a directory that was deleted."""
    try:
        yield
    except FileNotFoundError as exc:
        raise OutputError(f"the directory '{directory}' was deleted during the run") from exc


@contextmanager
def parent_of(
    path: Path, *, below: Path | None = None, make: bool = False
) -> Iterator[tuple[int, str]]:
    """Open the directory that a path is in; give its descriptor and the path's last part.

    Args:
        path: The path.
        below: The argument of ``open_directory``.
        make: Whether to create missing parent directories.

    Raises:
        OutputError: As in ``open_directory``.
    """
    directory = open_directory(path.parent, below=below, make=make)
    try:
        yield directory, path.name
    except OSError as exc:
        if exc.filename in (None, path.name):  # which says little without the directory
            exc.filename = str(path)
        raise
    finally:
        os.close(directory)


def open_file(path: Path, flags: int) -> int:
    """Return a descriptor of a regular file, which the caller closes.

    A file that is written to must have no other name, which may be a file of another program.
    ``O_TRUNC`` would act before that is known: cut the file off afterwards.

    Raises:
        OutputError: It is a link, or no regular file.
    """
    writing = bool(flags & (os.O_WRONLY | os.O_RDWR))
    with parent_of(path, make=bool(flags & os.O_CREAT)) as (directory, name):
        check_regular(path, only_name=writing)  # opening a device file can have side effects
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would wait for its reader
        descriptor = os.open(name, flags, 0o666, dir_fd=directory)
        try:
            _refuse(path, os.fstat(descriptor), only_name=writing)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def open_to_read(path: Path) -> BinaryIO:
    """Open a regular file of the output.

    Raises:
        OutputError: It is a link, or no regular file.
    """
    return open(open_file(path, os.O_RDONLY), "rb")


def create_file(path: Path, directory: int, name: str) -> int:
    """Return a descriptor of a new file in an open directory; what has its name is removed.

    Raises:
        OutputError: The directory was deleted during the run.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with _in(path.parent):
        try:
            return os.open(name, flags, 0o666, dir_fd=directory)
        except FileExistsError:
            os.unlink(name, dir_fd=directory)
            return os.open(name, flags, 0o666, dir_fd=directory)


def status_of(path: Path, *, below: Path | None = None) -> os.stat_result | None:
    """Return what ``lstat`` says of a path, ``None`` if there is nothing.

    Raises:
        OutputError: A link is on the way.
    """
    with (
        suppress(FileNotFoundError, NotADirectoryError),
        parent_of(path, below=below) as (directory, name),
    ):
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    return None


def check_regular(path: Path, *, only_name: bool = True) -> os.stat_result | None:
    """Check that a path is a regular file, or nothing; return what ``lstat`` says of it.

    Args:
        path: The path.
        only_name: Refuse a file that has another name, too.

    Raises:
        OutputError: It is something else.
    """
    status = status_of(path)
    if status is not None:
        _refuse(path, status, only_name=only_name)
    return status


def _refuse(path: Path, status: os.stat_result, *, only_name: bool) -> None:
    _refuse_link(path, status)
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"'{path}' is not a regular file; remove it, or choose another output")
    if only_name and status.st_nlink > 1:
        raise OutputError(
            f"'{path}' has another name (a hard link), whose content would change too; replace it "
            "by a copy, or choose another output"
        )


def _refuse_link(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OutputError(
            f"'{path}' is a symbolic link, which is not followed; remove it, or choose another "
            "output"
        )


def names_in(path: Path) -> list[str]:
    """Return the names in a directory; none if it is not there.

    Raises:
        OutputError: It is a link, or behind one.
    """
    try:
        directory = open_directory(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        return os.listdir(directory)  # noqa: PTH208 - of a descriptor
    finally:
        os.close(directory)


def rename(old: Path, new: Path) -> None:
    """Give a file another name, which may be taken.

    Raises:
        OutputError: A link is on the way.
    """
    with parent_of(old) as (source, name), parent_of(new) as (target, new_name):
        os.replace(name, new_name, src_dir_fd=source, dst_dir_fd=target)


def remove(path: Path, *, below: Path | None = None) -> None:
    """Remove a file, a link itself, or a directory with all that is in it; it may be missing.

    Raises:
        OutputError: A link is on the way.
    """
    with (
        suppress(FileNotFoundError, NotADirectoryError),
        parent_of(path, below=below) as (directory, name),
    ):
        _remove(directory, name)


def _remove(directory: int, name: str) -> None:
    if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=directory)
        return
    inner = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        for each in os.listdir(inner):  # noqa: PTH208 - of a descriptor
            _remove(inner, each)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=directory)
