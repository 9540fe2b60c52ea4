"""What happens to a source file after its result is committed: it stays, moves or goes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal

from pipeline.errors import OutputError
from pipeline.sources.decode.reading import why
from runners.watch.files.claims import Claims, Processed
from runners.watch.files.folders import (
    NotAFolderError,
    digest,
    exists,
    is_link,
    numbered,
    opened,
    rename_new,
    sync,
)
from runners.watch.inbox.writers import Writers


class Tree:
    """A folder that files are moved to: one in the watched folder, or anywhere else.

    Args:
        root: The watched folder.
        path: The tree. Below ``root`` no part of it may be a link.
    """

    def __init__(self, root: Path, path: Path) -> None:
        inside = path.is_relative_to(root)
        self.path = path
        self.base, self.parts = (root, path.relative_to(root).parts) if inside else (path, ())


class After:
    """Keeps, moves or deletes files that have been processed.

    ``claim`` them, remember that they are gone, then ``release`` them. A file is moved or deleted
    only if it is byte for byte what was decoded and nobody has it open for writing; else it is put
    back. It is moved with the sub-folders of its id and its marker, over no other file (``x~2.jpg``
    then); where the same content is there already it is not kept twice. A link is moved or deleted
    itself, never what it leads to, and no link below the watched folder is followed. At each
    instant a file is whole in its old place, its new one, or in ``.d2run/`` beside its old one.

    Args:
        action: ``keep``, ``move``, or ``delete``, which moves those that failed.
        root: The watched folder.
        done: Where files go whose result is committed; ``<root>/done`` by default.
        failed: Where files go that failed; ``<root>/failed`` by default.
        marker: Suffix of a file that goes along, such as ``.done``.
    """

    def __init__(
        self,
        action: Literal["keep", "move", "delete"],
        root: Path,
        done: Path | None = None,
        failed: Path | None = None,
        *,
        marker: str | None = None,
    ) -> None:
        self.action = action
        self.root = root
        self.claims = Claims(root, marker)
        self.done = Tree(root, done or root / "done")
        self.failed = Tree(root, failed or root / "failed")
        self._marker = marker
        self._unsynced: set[tuple[Path, tuple[str, ...]]] = set()

    def claim(self, file: Processed) -> bool:
        """Take a file under a private name; return False if this version is not there any more.

        Raises:
            OutputError: It cannot be moved or deleted; it is where it was.
        """
        if not file.arrival.is_there():
            return False
        if (tree := self._tree(file)) is not None:
            try:  # before it is taken: a tree that cannot be written stays so for a while
                with self._target(tree, file):
                    pass
            except OSError as exc:
                raise self._error(file, exc) from exc
        return self.claims.take(file)

    def confirm(self, files: Iterable[Processed]) -> tuple[list[Processed], list[Processed]]:
        """Check files that were claimed.

        Returns:
            Those that are as they were decoded, and the others, which have been put back.
        """
        right: list[Processed] = []
        wrong: list[Processed] = []
        writers = Writers()  # once all are out of sight
        for file in files:
            (right if self.claims.hold(file, writers) else wrong).append(file)
        self.give_back(wrong)
        return right, wrong

    def give_back(self, files: Iterable[Processed]) -> None:
        """Put files back that were claimed; what cannot be is found by the next look."""
        for file in files:
            folder_id, _, name = file.arrival.id.rpartition("/")
            with suppress(OSError):
                self.claims.put_back(folder_id, name)

    def release(self, file: Processed) -> Path | None:
        """Move or delete a file that was confirmed, and return where it is now if it was moved.

        That is durable once ``sync()`` has returned.

        Raises:
            OutputError: It cannot be done; the file is put back.
        """
        tree, place = self._tree(file), None
        folder_id, _, name = file.arrival.id.rpartition("/")
        try:
            with self.claims.opened(file) as (_, private, _):
                if tree is None:
                    if self._marker:
                        _remove(private, name + self._marker)
                    os.unlink(name, dir_fd=private)
                else:
                    place = self._move(file, tree, private)
        except FileNotFoundError:
            pass  # somebody else has taken it
        except OSError as exc:
            self.give_back([file])
            raise self._error(file, exc) from exc
        self._unsynced.add((self.root, tuple(folder_id.split("/")) if folder_id else ()))
        self.claims.tidy(folder_id)
        return place

    def holds_another(self, asset_id: str, fingerprint: Callable[[], str | None]) -> bool:
        """Say whether a file of this name and other content was moved, by whatever run."""
        *parents, name = asset_id.split("/")
        for tree in [self.done, self.failed] if self.action == "move" else [self.failed]:
            with suppress(OSError), opened(tree.base, [*tree.parts, *parents]) as folder:
                if exists(folder, name) and _digest(folder, name) != fingerprint():
                    return True
        return False

    def sync(self) -> None:
        """Make all that was done so far durable.

        Raises:
            OutputError: A folder cannot be written.
        """
        while self._unsynced:
            base, parts = place = self._unsynced.pop()
            try:
                with opened(base, parts) as folder:
                    sync(folder)
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed by somebody else, with all that was in it
            except OSError as exc:
                self._unsynced.add(place)
                path = base.joinpath(*parts)
                raise OutputError(f"cannot write {path} to disk: {why(exc)}") from exc

    def _tree(self, file: Processed) -> Tree | None:
        """Return where a file goes; ``None``: it is deleted."""
        if file.ok:
            return self.done if self.action == "move" else None
        return self.failed

    def _target(self, tree: Tree, file: Processed) -> AbstractContextManager[int]:
        """Open the folder that a file goes to; it is made if it is not there."""
        parents = (*tree.parts, *file.id.split("/")[:-1])
        if not tree.parts and not tree.base.is_dir():
            tree.base.mkdir(parents=True, exist_ok=True)
            self._unsynced.add((tree.base.parent, ()))
        self._unsynced |= {(tree.base, parents[:n]) for n in range(len(parents) + 1)}
        return opened(tree.base, parents, make=True)

    def _error(self, file: Processed, exc: OSError) -> OutputError:
        text = str(exc) if isinstance(exc, NotAFolderError) else why(exc)
        if (tree := self._tree(file)) is None:
            return OutputError(f"cannot delete {file.arrival.path}: {text}")
        return OutputError(f"cannot move {file.arrival.path} to {tree.path}: {text}")

    def _move(self, file: Processed, tree: Tree, private: int) -> Path:
        name = file.arrival.id.rpartition("/")[2]
        marker = self._marker if self._marker and exists(private, name + self._marker) else None
        here = file.arrival.path.parent
        with self._target(tree, file) as target:
            for new in numbered(file.id, len(os.fsencode(self._marker or ""))):
                base = new.rpartition("/")[2]
                if exists(target, base) and not _same(here, private, name, target, base):
                    continue
                # first: a marker that is left without its file would be put back
                if marker and not _bring(here, private, name + marker, target, base + marker):
                    continue
                marker = None
                if _bring(here, private, name, target, base):
                    return tree.path / new
        raise AssertionError  # there is always another number


def _bring(here: Path, private: int, name: str, target: int, base: str) -> bool:
    """Have a file appear whole in a tree and vanish here; return False if another is there.

    Args:
        here: The folder that a link was in.
        private: The folder that the file is in.
        name: Of the file.
        target: The folder that it goes to.
        base: Its name there.
    """
    try:
        if is_link(private, name):
            os.symlink(_leads_to(here, private, name), base, dir_fd=target)
        else:
            try:
                rename_new(private, name, target, base)
            except OSError as exc:
                if exc.errno != errno.EXDEV:
                    raise
                _copy(private, name, target, base)
                sync(target)  # two file systems keep no order between them
            else:
                return True
    except FileExistsError:
        if not _same(here, private, name, target, base):
            return False
    os.unlink(name, dir_fd=private)
    return True


def _same(here: Path, private: int, name: str, target: int, base: str) -> bool:
    """Say whether ``base`` is what a move of ``name`` makes of it."""
    if is_link(private, name) or is_link(target, base):
        with suppress(OSError):
            return os.readlink(base, dir_fd=target) == _leads_to(here, private, name)
        return False
    mine, other = _digest(private, name), _digest(target, base)
    return mine == other is not None


def _leads_to(here: Path, private: int, name: str) -> str:
    """Return where a link leads to, seen from anywhere."""
    return str(here.resolve() / os.readlink(name, dir_fd=private))


def _digest(folder: int, name: str) -> str | None:
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


def _temporary(name: str) -> str:
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.part"


def _remove(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _copy(folder: int, name: str, target: int, base: str) -> None:
    """Copy to another file system."""
    temporary = _temporary(base)
    _remove(target, temporary)
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
                with suppress(OSError):  # modes and times that this file system does not have
                    os.fchmod(writing, stat.S_IMODE(status.st_mode))
                    os.utime(writing, ns=(status.st_atime_ns, status.st_mtime_ns))
                os.fsync(writing)
        rename_new(target, temporary, target, base)
    finally:
        _remove(target, temporary)
