"""What happens to a source file after its result is committed: it stays, moves or goes."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal

from pipeline.errors import OutputError
from pipeline.sources.reading import why
from runners.watch.versions import Arrival

_MAX_NAME_BYTES = 255
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class After:
    """Keeps, moves or deletes a file that has been processed.

    A file is moved with the sub-folders of its id, over no other file (``x~2.jpg`` then), with
    its marker, and only if it still is the version that was processed. At each instant it lies
    whole in its old place, its new one or both; a call that was cut short can be repeated. A link
    is moved or deleted itself, never what it points to.

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
        self.done = done or root / "done"
        self.failed = failed or root / "failed"
        self._marker = marker
        self._unsynced: set[Path] = set()

    def __call__(self, arrival: Arrival, ok: bool) -> Path | None:
        """Do it, and return where the file lies now if it was moved.

        It is durable once ``sync()`` has returned. Nothing happens to a file that has changed
        since, or is not there any more.

        Raises:
            OutputError: It cannot be done; the file is where it was.
        """
        if self.action == "keep":
            return None
        tree = self.done if ok else self.failed
        try:
            if not arrival.is_there():
                return None
            if ok and self.action == "delete":
                self._marker_to(arrival.path, None)
                arrival.path.unlink()
                self._unsynced.add(arrival.path.parent)
                return None
            return self._move(arrival, tree)
        except OSError as exc:
            verb = "delete" if ok and self.action == "delete" else "move"
            place = "" if verb == "delete" else f" to {tree}"
            raise OutputError(f"cannot {verb} {arrival.path}{place}: {why(exc)}") from exc

    def sync(self) -> None:
        """Make all that was done so far durable.

        Raises:
            OutputError: A folder cannot be written.
        """
        while self._unsynced:
            folder = self._unsynced.pop()
            try:
                _sync(folder)
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed by somebody else, with all that was in it
            except OSError as exc:
                self._unsynced.add(folder)
                raise OutputError(f"cannot write {folder} to disk: {why(exc)}") from exc

    def _move(self, arrival: Arrival, tree: Path) -> Path:
        source = arrival.path
        for target in self._names(tree.joinpath(*PurePosixPath(arrival.id).parts)):
            self._make_folder(target.parent)
            try:
                if _is_same(source, target):  # an earlier call was cut short
                    _temporary(target).unlink(missing_ok=True)
                    break
                _place(source, target)
            except FileExistsError:
                continue
            break
        # Before the file goes: a marker alone would vouch for whatever gets this name next.
        self._marker_to(source, target)
        self._unsynced |= {source.parent, target.parent}
        if arrival.is_there():
            if source.lstat().st_dev != target.lstat().st_dev:
                self.sync()  # two file systems keep no order between them
            source.unlink()
        return target

    def _marker_to(self, source: Path, target: Path | None) -> None:
        if self._marker is None:
            return
        marker = source.with_name(source.name + self._marker)
        if target is not None and os.path.lexists(marker):
            with suppress(FileExistsError):
                _place(marker, target.with_name(target.name + self._marker))
        marker.unlink(missing_ok=True)

    def _names(self, target: Path) -> Iterator[Path]:
        room = _MAX_NAME_BYTES - len(os.fsencode(self._marker or ""))
        yield target
        n = 2
        while True:
            end = os.fsencode(f"~{n}{target.suffix}")
            stem = os.fsencode(target.stem)[: room - len(end)]
            yield target.with_name(os.fsdecode(stem + end))
            n += 1

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")
        self._unsynced.add(folder.parent)


def _is_same(source: Path, target: Path) -> bool:
    """Say whether ``target`` is what a move of ``source`` makes of it."""
    try:
        there = target.lstat()
    except FileNotFoundError:
        return False
    here = source.lstat()
    if stat.S_ISLNK(here.st_mode):
        return stat.S_ISLNK(there.st_mode) and os.readlink(target) == _points_to(source)  # noqa: PTH115
    if os.path.samestat(here, there):
        return True
    same = (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)
    return same and stat.S_ISREG(there.st_mode) and filecmp.cmp(source, target, shallow=False)


def _points_to(link: Path) -> str:
    """Return where a link leads to, seen from anywhere."""
    return os.path.join(link.parent.resolve(), os.readlink(link))  # noqa: PTH115, PTH118


def _place(source: Path, target: Path) -> None:
    """Make ``source`` appear whole at ``target`` too, or alone; over nothing that is there."""
    if source.is_symlink():
        target.symlink_to(_points_to(source))
        return
    try:
        os.link(source, target)
    except OSError as exc:
        if exc.errno == errno.EXDEV:
            _copy(source, target)
        elif exc.errno in _NO_LINKS:
            _rename(source, target)
        else:
            raise


def _rename(source: Path, target: Path) -> None:
    """Rename where there are no hard links: over an empty file that nobody else can have made."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    try:
        source.rename(target)
    except BaseException:
        target.unlink()
        raise


def _temporary(target: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.with_name(f".{digest}.part")


def _copy(source: Path, target: Path) -> None:
    """Copy to another file system."""
    temporary = _temporary(target)
    try:
        with source.open("rb") as reader, temporary.open("wb") as writer:
            before = os.fstat(reader.fileno())
            shutil.copyfileobj(reader, writer, 1 << 20)
            after = os.fstat(reader.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise OSError(errno.EBUSY, "changed while it was copied")
            writer.flush()
            with suppress(OSError):  # modes and times that this file system does not have
                shutil.copystat(source, temporary)
            os.fsync(writer.fileno())
        _place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
