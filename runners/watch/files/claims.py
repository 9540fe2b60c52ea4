"""Files that are about to be moved or deleted, under a private name until they are checked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.sources.decode.reading import why
from runners.watch.files.folders import (
    NotAFolderError,
    digest,
    exists,
    numbered,
    opened,
    rename_new,
)
from runners.watch.inbox.versions import Arrival
from runners.watch.inbox.writers import Writers

FOLDER = ".d2run"


@dataclass(frozen=True, slots=True)
class Processed:
    """A file whose outcome is committed.

    Attributes:
        id: Of the input.
        arrival: The version of the file that was found.
        ok: Whether the input is done rather than failed.
        sha256: Of the content that was decoded; ``None`` if it could not be read.
    """

    id: str
    arrival: Arrival
    ok: bool
    sha256: str | None


@dataclass
class Claims:
    """Renames processed files into ``.d2run/`` beside them, so that nobody opens them any more.

    Whoever already has one open keeps writing into it there, which shows. What is not as it was
    decoded is put back. What a killed run has left in such a folder is found by the next scan.

    Attributes:
        root: The watched folder.
        marker: Suffix of a file that goes along, such as ``.done``.
    """

    root: Path
    marker: str | None = None

    def take(self, file: Processed) -> bool:
        """Rename a file, its marker first; return False if this version is not there any more.

        Raises:
            OutputError: It cannot be renamed; it is where it was.
        """
        *parents, name = file.arrival.id.split("/")
        try:
            with opened(self.root, parents) as folder:
                status = os.stat(name, dir_fd=folder)
                if (status.st_size, status.st_mtime_ns) != _version(file):
                    return False
                with opened(folder, [FOLDER], make=True) as private:
                    # first: a marker alone would vouch for whatever gets this name next
                    self._marker(folder, name, private)
                    try:
                        rename_new(folder, name, private, name)
                    except BaseException:
                        self._marker(private, name, folder)
                        raise
            return True
        except FileNotFoundError:
            return False
        except NotAFolderError as exc:
            if os.path.islink(self.root.joinpath(*parents, FOLDER)):  # noqa: PTH114
                raise OutputError(f"cannot move {file.arrival.path}: {exc}") from exc
            return False  # a folder on the way has become a link: it is another file
        except OSError as exc:
            raise OutputError(f"cannot move {file.arrival.path}: {why(exc)}") from exc

    def hold(self, file: Processed, writers: Writers) -> bool:
        """Say whether a file is byte for byte what was decoded, and nobody can write to it.

        Args:
            file: Was taken.
            writers: Made after that.
        """
        if file.ok and file.sha256 is None:
            return False
        with suppress(OSError), self.opened(file) as (folder, private, name):
            try:
                descriptor = _content(folder, private, name)
            except PermissionError:  # it failed because of that, and is not deleted
                status = os.stat(name, dir_fd=private, follow_symlinks=False)
                same = (status.st_size, status.st_mtime_ns) == _version(file)
                return same and file.sha256 is None
            try:
                if writers.write(descriptor):
                    return False
                same = file.sha256 in (None, digest(descriptor))
                status = os.fstat(descriptor)
                same = same and stat.S_ISREG(status.st_mode)
                return same and (status.st_size, status.st_mtime_ns) == _version(file)
            finally:
                os.close(descriptor)
        return False

    def put_back(self, folder_id: str, name: str) -> None:
        """Give a file its name back, or the next free one if a newer file has that by now.

        Raises:
            OSError: It cannot be renamed.
        """
        parents = folder_id.split("/") if folder_id else []
        with opened(self.root, parents) as folder, opened(folder, [FOLDER]) as private:
            for new in numbered(name, len(os.fsencode(self.marker or ""))):
                with suppress(FileExistsError):
                    rename_new(private, name, folder, new)
                    break
            self._marker(private, name, folder, new)
        self.tidy(folder_id)

    def left(self, folder_id: str) -> list[str]:
        """Return the names of the files that were left in a folder's ``.d2run/``.

        Raises:
            OSError: It cannot be listed.
        """
        parents = folder_id.split("/") if folder_id else []
        with opened(self.root, [*parents, FOLDER]) as private, os.scandir(private) as listing:
            names = {entry.name for entry in listing if not entry.is_dir(follow_symlinks=False)}
        if self.marker:  # one that has its file goes with it
            names -= {name + self.marker for name in names}
        return sorted(names)

    def describe(self, folder_id: str, name: str) -> Processed:
        """Return what is known of a file that was left there: its version and content.

        Raises:
            OSError: It cannot be read.
        """
        name_id = f"{folder_id}/{name}" if folder_id else name
        arrival = Arrival(name_id, self.root / name_id, 0, 0)
        with self.opened(Processed(name_id, arrival, False, None)) as (folder, private, _):
            descriptor = _content(folder, private, name)
            try:
                status = os.fstat(descriptor)
                sha256 = digest(descriptor)
            finally:
                os.close(descriptor)
        arrival = replace(arrival, size=status.st_size, mtime_ns=status.st_mtime_ns)
        return Processed(name_id, arrival, False, sha256)

    def tidy(self, folder_id: str) -> None:
        """Remove a folder's ``.d2run/`` if nothing is in it."""
        parents = folder_id.split("/") if folder_id else []
        with suppress(OSError), opened(self.root, parents) as folder:
            os.rmdir(FOLDER, dir_fd=folder)

    @contextmanager
    def opened(self, file: Processed) -> Iterator[tuple[int, int, str]]:
        """Open the folder that a file was in and the one that it is in; give its name too.

        Raises:
            OSError: They cannot be opened.
        """
        *parents, name = file.arrival.id.split("/")
        with opened(self.root, parents) as folder, opened(folder, [FOLDER]) as private:
            yield folder, private, name

    def _marker(self, folder: int, name: str, other: int, new: str | None = None) -> None:
        if self.marker and exists(folder, name + self.marker):
            with suppress(FileExistsError):
                rename_new(folder, name + self.marker, other, (new or name) + self.marker)


def _version(file: Processed) -> tuple[int, int]:
    return file.arrival.size, file.arrival.mtime_ns


def _content(folder: int, private: int, name: str) -> int:
    """Open a file for reading; a link leads where it led from its own folder."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        target = os.readlink(name, dir_fd=private)
    except OSError:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=private)
    return os.open(target, flags, dir_fd=folder)
