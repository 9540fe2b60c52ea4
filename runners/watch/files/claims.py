"""Claims: files that are about to be moved or deleted get a private name and are compared."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.system.os_errors import describe_os_error
from runners.watch.files.directories import (
    NotAFolderError,
    digest,
    exists,
    numbered,
    opened,
    rename_new,
)
from runners.watch.inbox.versions import Arrival
from runners.watch.inbox.writers import WriterCheck

FOLDER = ".d2run"


@dataclass(frozen=True, slots=True)
class ProcessedFile:
    """A file whose outcome is committed.

    Attributes:
        id: The id of the input.
        arrival: The version of the file that was found.
        is_done: Whether the input is done; False if it failed.
        sha256: Of the content that was decoded; ``None`` if it could not be read.
    """

    id: str
    arrival: Arrival
    is_done: bool
    sha256: str | None


@dataclass
class Claims:
    """Renames processed files into ``.d2run/`` beside them, where nobody opens them by name.

    A process that already has such a file open keeps writing into it there, which is detected. A
    file that differs from what was decoded is restored. Files that a killed run has left in such a
    folder are found by the next scan.

    Attributes:
        root: The watched folder.
        marker: Suffix of a marker file that is renamed along, such as ``.done``.
    """

    root: Path
    marker: str | None = None

    def claim(self, file: ProcessedFile) -> bool:
        """Rename a file, its marker first.

        Returns:
            False if this version of the file is no longer there.

        Raises:
            OutputError: It cannot be renamed; it stays in its place.
        """
        *parents, name = file.arrival.id.split("/")
        try:
            with opened(self.root, parents) as folder:
                status = os.stat(name, dir_fd=folder)
                if (status.st_size, status.st_mtime_ns) != _version(file):
                    return False
                with opened(folder, [FOLDER], make=True) as private:
                    # first: a marker alone would vouch for the next file of this name
                    self._rename_marker(folder, name, private)
                    try:
                        rename_new(folder, name, private, name)
                    except BaseException:
                        self._rename_marker(private, name, folder)
                        raise
            return True
        except FileNotFoundError:
            return False
        except NotAFolderError as exc:
            if os.path.islink(self.root.joinpath(*parents, FOLDER)):  # noqa: PTH114
                raise OutputError(f"cannot move {file.arrival.path}: {exc}") from exc
            return False  # a parent folder has become a link, so the path names another file
        except OSError as exc:
            raise OutputError(f"cannot move {file.arrival.path}: {describe_os_error(exc)}") from exc

    def is_unchanged(self, file: ProcessedFile, writers: WriterCheck) -> bool:
        """Return whether a file is byte for byte what was decoded, and not open for writing.

        Args:
            file: A claimed file.
            writers: Created after the file was claimed.
        """
        if file.is_done and file.sha256 is None:
            return False
        with suppress(OSError), self.opened(file) as (folder, private, name):
            try:
                descriptor = _open_content(folder, private, name)
            except PermissionError:  # also why decoding failed; it is moved, never deleted
                status = os.stat(name, dir_fd=private, follow_symlinks=False)
                is_same = (status.st_size, status.st_mtime_ns) == _version(file)
                return is_same and file.sha256 is None
            try:
                if writers.is_open_for_writing(descriptor):
                    return False
                is_same = file.sha256 in (None, digest(descriptor))
                status = os.fstat(descriptor)
                is_same = is_same and stat.S_ISREG(status.st_mode)
                return is_same and (status.st_size, status.st_mtime_ns) == _version(file)
            finally:
                os.close(descriptor)
        return False

    def restore(self, folder_id: str, name: str) -> None:
        """Give a file its name back, or the next free one if a newer file has that name.

        Raises:
            OSError: It cannot be renamed.
        """
        with opened(self.root, _parts(folder_id)) as folder, opened(folder, [FOLDER]) as private:
            for new in numbered(name, len(os.fsencode(self.marker or ""))):
                with suppress(FileExistsError):
                    rename_new(private, name, folder, new)
                    break
            self._rename_marker(private, name, folder, new)
        self.remove_folder(folder_id)

    def leftovers(self, folder_id: str) -> list[str]:
        """Return the names of the files that were left in a folder's ``.d2run/``.

        Raises:
            OSError: It cannot be listed.
        """
        parts = [*_parts(folder_id), FOLDER]
        with opened(self.root, parts) as private, os.scandir(private) as listing:
            names = {entry.name for entry in listing if not entry.is_dir(follow_symlinks=False)}
        if self.marker:  # a marker is renamed together with its file
            names -= {name + self.marker for name in names}
        return sorted(names)

    def read_leftover(self, folder_id: str, name: str) -> ProcessedFile:
        """Return the version and content of a file that was left in a folder's ``.d2run/``.

        Raises:
            OSError: It cannot be read.
        """
        name_id = f"{folder_id}/{name}" if folder_id else name
        arrival = Arrival(name_id, self.root / name_id, 0, 0)
        with self.opened(ProcessedFile(name_id, arrival, False, None)) as (folder, private, _):
            descriptor = _open_content(folder, private, name)
            try:
                status = os.fstat(descriptor)
                sha256 = digest(descriptor)
            finally:
                os.close(descriptor)
        arrival = replace(arrival, size=status.st_size, mtime_ns=status.st_mtime_ns)
        return ProcessedFile(name_id, arrival, False, sha256)

    def remove_folder(self, folder_id: str) -> None:
        """Remove a folder's ``.d2run/`` if it is empty."""
        with suppress(OSError), opened(self.root, _parts(folder_id)) as folder:
            os.rmdir(FOLDER, dir_fd=folder)

    @contextmanager
    def opened(self, file: ProcessedFile) -> Iterator[tuple[int, int, str]]:
        """Open the original folder of a file and the private one; yield both and its name.

        Raises:
            OSError: They cannot be opened.
        """
        *parents, name = file.arrival.id.split("/")
        with opened(self.root, parents) as folder, opened(folder, [FOLDER]) as private:
            yield folder, private, name

    def _rename_marker(self, folder: int, name: str, target: int, new: str | None = None) -> None:
        if self.marker and exists(folder, name + self.marker):
            with suppress(FileExistsError):
                rename_new(folder, name + self.marker, target, (new or name) + self.marker)


def _parts(folder_id: str) -> list[str]:
    return folder_id.split("/") if folder_id else []


def _version(file: ProcessedFile) -> tuple[int, int]:
    return file.arrival.size, file.arrival.mtime_ns


def _open_content(folder: int, private: int, name: str) -> int:
    """Open a claimed file for reading; a relative link is resolved from its original folder."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        target = os.readlink(name, dir_fd=private)
    except OSError:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=private)
    return os.open(target, flags, dir_fd=folder)
