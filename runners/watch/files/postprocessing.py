"""Post-processing of a source file whose result is committed: keep, move or delete it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal

from pipeline.errors import OutputError
from pipeline.system.files import sync_open_folder
from pipeline.system.os_errors import describe_os_error
from runners.watch.files.claims import Claims, ProcessedFile
from runners.watch.files.directories import NotAFolderError, exists, numbered, opened
from runners.watch.files.transfer import content_digest, is_same_file, move_file, remove_file
from runners.watch.inbox.writers import WriterCheck


class Destination:
    """A folder that files are moved to, in the watched folder or anywhere else.

    Args:
        root: The watched folder.
        path: The destination. If it is below ``root``, no part of it may be a link.
    """

    def __init__(self, root: Path, path: Path) -> None:
        is_inside = path.is_relative_to(root)
        self.path = path
        self.base, self.parts = (root, path.relative_to(root).parts) if is_inside else (path, ())


class PostProcessing:
    """Keeps, moves or deletes files that have been processed.

    The steps are ``claim``, ``verify``, recording that the files are gone, and ``apply``. A file
    is moved or deleted only if it is byte for byte what was decoded and no process has it open for
    writing; otherwise it is restored. It is moved together with its marker, keeps the subfolders of
    its id, and never replaces another file: it becomes ``x~2.jpg`` then. If the same content is
    already there, it is not kept twice. A link is moved or deleted itself, never its target, and
    no link below the watched folder is followed. At any moment a file is complete in its old place,
    in its new place, or in ``.d2run/`` beside its old place.

    Args:
        action: ``keep``, ``move``, or ``delete``, which moves files that failed.
        root: The watched folder.
        done: Destination of files whose result is committed; by default ``<root>/done``.
        failed: Destination of files that failed; by default ``<root>/failed``.
        marker: Suffix of a marker file that is moved along, such as ``.done``.
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
        self.done = Destination(root, done or root / "done")
        self.failed = Destination(root, failed or root / "failed")
        self._marker = marker
        self._unsynced: set[tuple[Path, tuple[str, ...]]] = set()

    def claim(self, file: ProcessedFile) -> bool:
        """Rename a file to a private name.

        Returns:
            False if this version of the file is no longer there.

        Raises:
            OutputError: It cannot be moved or deleted; it stays in its place.
        """
        if not file.arrival.is_current():
            return False
        if (destination := self._destination(file)) is not None:
            try:  # before the file is renamed: a destination may be unwritable for a while
                with self._target(destination, file):
                    pass
            except OSError as exc:
                raise self._error(file, exc) from exc
        return self.claims.claim(file)

    def verify(
        self, files: Iterable[ProcessedFile]
    ) -> tuple[list[ProcessedFile], list[ProcessedFile]]:
        """Compare claimed files with what was decoded.

        Returns:
            The unchanged files, and the others, which have been restored.
        """
        unchanged: list[ProcessedFile] = []
        changed: list[ProcessedFile] = []
        writers = WriterCheck()  # after all files have been renamed
        for file in files:
            (unchanged if self.claims.is_unchanged(file, writers) else changed).append(file)
        self.restore(changed)
        return unchanged, changed

    def restore(self, files: Iterable[ProcessedFile]) -> None:
        """Give claimed files their names back; the next scan finds those that cannot be renamed."""
        for file in files:
            folder_id, _, name = file.arrival.id.rpartition("/")
            with suppress(OSError):
                self.claims.restore(folder_id, name)

    def apply(self, file: ProcessedFile) -> Path | None:
        """Move or delete a verified file; durable after ``sync``.

        Returns:
            Where it is now; ``None`` if it was deleted.

        Raises:
            OutputError: It cannot be moved or deleted; it is restored.
        """
        destination, path = self._destination(file), None
        folder_id, _, name = file.arrival.id.rpartition("/")
        try:
            with self.claims.opened(file) as (_, private, _):
                if destination is None:
                    if self._marker:
                        remove_file(private, name + self._marker)
                    os.unlink(name, dir_fd=private)
                else:
                    path = self._move(file, destination, private)
        except FileNotFoundError:
            pass  # another program has removed the file
        except OSError as exc:
            self.restore([file])
            raise self._error(file, exc) from exc
        self._unsynced.add((self.root, tuple(folder_id.split("/")) if folder_id else ()))
        self.claims.remove_folder(folder_id)
        return path

    def has_other_content(self, asset_id: str, fingerprint: Callable[[], str | None]) -> bool:
        """Return whether a destination has a file of this name, from any run, with other content.

        Args:
            asset_id: The name.
            fingerprint: Returns the SHA-256 to compare with.
        """
        *parents, name = asset_id.split("/")
        destinations = [self.done, self.failed] if self.action == "move" else [self.failed]
        for destination in destinations:
            path = [*destination.parts, *parents]
            with suppress(OSError), opened(destination.base, path) as folder:
                if exists(folder, name) and content_digest(folder, name) != fingerprint():
                    return True
        return False

    def sync(self) -> None:
        """Make everything that was applied so far durable.

        Raises:
            OutputError: A folder cannot be written.
        """
        while self._unsynced:
            base, parts = folder_path = self._unsynced.pop()
            try:
                with opened(base, parts) as folder:
                    sync_open_folder(folder)
            except (FileNotFoundError, NotADirectoryError):
                continue  # another program has removed the folder
            except OSError as exc:
                self._unsynced.add(folder_path)
                path = base.joinpath(*parts)
                raise OutputError(f"cannot write {path} to disk: {describe_os_error(exc)}") from exc

    def _destination(self, file: ProcessedFile) -> Destination | None:
        """Return where a file is moved to; ``None`` if it is deleted."""
        if file.is_done:
            return self.done if self.action == "move" else None
        return self.failed

    def _target(self, destination: Destination, file: ProcessedFile) -> AbstractContextManager[int]:
        """Open the folder that a file is moved to; missing folders are created."""
        parents = (*destination.parts, *file.id.split("/")[:-1])
        if not destination.parts and not destination.base.is_dir():
            destination.base.mkdir(parents=True, exist_ok=True)
            self._unsynced.add((destination.base.parent, ()))
        self._unsynced |= {(destination.base, parents[:n]) for n in range(len(parents) + 1)}
        return opened(destination.base, parents, make=True)

    def _error(self, file: ProcessedFile, exc: OSError) -> OutputError:
        text = str(exc) if isinstance(exc, NotAFolderError) else describe_os_error(exc)
        if (destination := self._destination(file)) is None:
            return OutputError(f"cannot delete {file.arrival.path}: {text}")
        return OutputError(f"cannot move {file.arrival.path} to {destination.path}: {text}")

    def _move(self, file: ProcessedFile, destination: Destination, private: int) -> Path:
        name = file.arrival.id.rpartition("/")[2]
        marker = self._marker if self._marker and exists(private, name + self._marker) else None
        origin = file.arrival.path.parent
        with self._target(destination, file) as target:
            for new_id in numbered(file.id, len(os.fsencode(self._marker or ""))):
                new = new_id.rpartition("/")[2]
                if exists(target, new) and not is_same_file(origin, private, name, target, new):
                    continue
                # the marker first: a marker that is left without its file would be restored
                if marker and not move_file(origin, private, name + marker, target, new + marker):
                    continue
                marker = None
                if move_file(origin, private, name, target, new):
                    return destination.path / new_id
        raise AssertionError  # there is always another number
