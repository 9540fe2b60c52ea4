"""The files of a per-asset sink: atomic, confined to one directory, durable in groups."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.errors import OutputError
from pipeline.system.descriptors import (
    create_file,
    open_directory,
    parent_of,
    remove,
    status_of,
)
from pipeline.system.files import TEMPORARY, replaced_in, sync_folder

_MAX_UNSYNCED = 4096  # unsynced names to keep at most: a video may have a million frames


class Observer(Protocol):
    """Follows what is written and removed in a run directory; may be called on several threads."""

    def written(self, name: str) -> None:
        """Note that a file has its final content and name, relative to the run directory."""
        ...

    def removing(self, name: str) -> Sequence[str]:
        """Return the files that are removed with a name; called before."""
        ...

    def removed(self, names: Iterable[str]) -> None:
        """Note that files are removed."""
        ...


_observers: dict[Path, Observer] = {}


@contextmanager
def observed(root: Path, observer: Observer) -> Iterator[None]:
    """Have an observer follow all that each ``OutputFolder`` does below ``root``."""
    _observers[root] = observer
    try:
        yield
    finally:
        del _observers[root]


@dataclass
class OutputFolder:
    """A directory of files whose names come from inputs: nothing is written outside it.

    Symbolic links below ``root`` are never followed, because they would lead out of the output.

    ``write`` writes a whole file at once. A file that grows with its asset, such as a video, is
    written to the temporary file that ``open`` returns, and ``commit`` moves it to its final name:

    ```python
    def begin(self, asset):
        self.file = self.folder.open(f"csv/{output_name(asset.id, '.csv')}")
    def write(self, result):
        self.file.write(...)
    def flush(self, asset):
        self.folder.commit(f"csv/{output_name(asset.id, '.csv')}")
    def discard(self, asset):
        self.folder.remove(f"csv/{output_name(asset.id, '.csv')}")
    ```

    The content of a file is durable when ``write`` or ``commit`` returns, its name after ``sync``.

    Attributes:
        root: The directory; may be, or be behind, a symbolic link, which is the user's choice.
            Temporary files of ``open`` are created here, so a run removes those that a killed run
            left in its run directory.
    """

    root: Path
    _written: dict[str, None] = field(default_factory=dict, repr=False)  # since the last sync
    _touched: set[str] = field(default_factory=set, repr=False)
    _entered: set[str] = field(default_factory=set, repr=False)
    _growing: dict[str, BinaryIO] = field(default_factory=dict, repr=False)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write ``<root>/<name>`` atomically: a reader sees the old content or the new.

        Raises:
            OutputError: A directory on the way is a symbolic link, or was deleted.
        """
        path = self.root / name
        with parent_of(path, below=self.root, make=True) as (directory, base):
            self._touch(path.parent)
            # named after the file alone: the next run overwrites what a killed run has left
            with replaced_in(path, directory, base) as file:
                file.write(data)
        self._note(name)

    def link(self, name: str, target: str) -> None:
        """Create the symbolic link ``<root>/<name>`` atomically; an earlier file is replaced.

        Args:
            name: Name of the link.
            target: What it leads to, relative to the link's own directory.

        Raises:
            OutputError: A directory on the way is a symbolic link, or was deleted.
        """
        path, temporary = self.root / name, self._temporary(name).name
        if self._observer() is not None:
            raise OutputError(f"'{path}' would be a link, which an object store cannot hold")
        with parent_of(path, below=self.root, make=True) as (directory, base):
            self._touch(path.parent)
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            os.symlink(target, temporary, dir_fd=directory)
            os.replace(temporary, base, src_dir_fd=directory, dst_dir_fd=directory)
        self._note(name)

    def open(self, name: str) -> BinaryIO:
        """Return a temporary file that ``commit`` moves to ``<root>/<name>``.

        Its ``name`` is its path, for libraries that open files by name. A second call for the same
        name starts from scratch.

        Raises:
            OutputError: ``root`` was deleted.
        """
        self._drop(name)
        path = self._temporary(name)
        with parent_of(path, below=self.root, make=True) as (directory, base):
            file = open(create_file(path, directory, base), "wb")  # noqa: PTH123, SIM115
        file.raw.name = str(path)  # type: ignore[attr-defined]
        self._growing[name] = file
        return file

    def commit(self, name: str) -> None:
        """Move the file that ``open`` returned to its final name, replacing an earlier one.

        Raises:
            KeyError: ``open`` was not called.
            OSError: The disk fails; the temporary file is removed.
            OutputError: A directory on the way is a symbolic link, or was deleted.
        """
        path, temporary = self.root / name, self._temporary(name)
        try:
            with self._growing[name] as file:
                file.flush()
                os.fsync(file.fileno())
            with (
                parent_of(temporary, below=self.root) as (source, old),
                parent_of(path, below=self.root, make=True) as (directory, base),
            ):
                self._touch(path.parent)
                self._touch(self.root)
                os.replace(old, base, src_dir_fd=source, dst_dir_fd=directory)
        except BaseException:
            self._drop(name)
            raise
        del self._growing[name]
        self._note(name)

    def remove(self, name: str) -> None:
        """Remove ``<root>/<name>``, a file or a directory of files, temporary files included."""
        path = self.root / name
        inner = f"{name}/"
        for each in [each for each in self._written if each == name or each.startswith(inner)]:
            del self._written[each]
        for each in [each for each in self._growing if each == name or each.startswith(inner)]:
            self._drop(each)
        observer = self._observer()
        gone = observer.removing(self._observed(name)) if observer is not None else ()
        with suppress(FileNotFoundError, NotADirectoryError):
            os.close(open_directory(path.parent, below=self.root))
            self._touch(path.parent)
            remove(path, below=self.root)
        if observer is not None:
            observer.removed(gone)
        self._entered = {each for each in self._entered if not f"{each}/".startswith(f"{path}/")}

    def remove_empty(self, name: str) -> None:
        """Remove the directory ``<root>/<name>`` if it is empty."""
        with suppress(OSError), parent_of(self.root / name, below=self.root) as (directory, base):
            os.rmdir(base, dir_fd=directory)

    def sync(self) -> None:
        """Make the names of all files written or removed so far durable.

        Raises:
            OutputError: A file is missing, so its asset must not count as done.
        """
        for name in self._written:
            if status_of(self.root / name, below=self.root) is None:
                raise OutputError(
                    f"'{self.root / name}' was moved or deleted during the run, before its input "
                    "was committed; run the same command again"
                )
        for path in sorted(self._touched):
            with suppress(FileNotFoundError):  # removed since
                sync_folder(path, below=self.root)
        self._written.clear()
        self._touched.clear()  # only now: if a sync fails, the next one repeats it

    def _note(self, name: str) -> None:
        self._written[name] = None
        observer = self._observer()
        if observer is not None:
            observer.written(self._observed(name))
        if len(self._written) >= _MAX_UNSYNCED:
            self.sync()

    def _observer(self) -> Observer | None:
        if not _observers:
            return None
        return next((_observers[each] for each in self._places() if each in _observers), None)

    def _observed(self, name: str) -> str:
        """Return a name relative to the directory that is observed."""
        root = next(each for each in self._places() if each in _observers)
        return (self.root / name).relative_to(root).as_posix()

    def _places(self) -> tuple[Path, ...]:
        return (self.root, *self.root.parents)

    def _temporary(self, name: str) -> Path:
        return self.root / f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{TEMPORARY}"

    def _drop(self, name: str) -> None:
        """Close and remove the temporary file of ``open``, if there is one."""
        file = self._growing.pop(name, None)
        if file is not None:
            with suppress(OSError):  # such as a full disk, with something left in the buffer
                file.close()
            remove(self._temporary(name), below=self.root)

    def _touch(self, directory: Path) -> None:
        """Record that names in a directory changed, and once per parent, whoever created it."""
        self._touched.add(str(directory))
        while str(directory) not in self._entered and directory != self.root:
            self._entered.add(str(directory))
            directory = directory.parent
            self._touched.add(str(directory))
