"""Walks a folder repeatedly, and lists only the folders that have changed."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path

from pipeline.sources.scan import OF_A_RUN, natural_key, not_an_image, skip_reason
from pipeline.system.files import file_identity
from pipeline.system.os_errors import describe_os_error
from runners.watch.files.claims import FOLDER as CLAIMS
from runners.watch.inbox.skipped import SkippedFilesReport

# Resolution of the coarsest time stamps of a file system (FAT). Within it, a folder may change once
# more and keep its mtime.
_TIMESTAMP_RESOLUTION_S = 2.0
NOT_FOUND = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)


@dataclass(slots=True)
class FoundFile:
    """An image in a folder that was listed.

    Attributes:
        id: Path relative to the root.
        status: Size, times and inode of the file, links followed; ``None`` for a dangling link.
    """

    id: str
    status: os.stat_result | None


@dataclass(slots=True)
class _Folder:
    """The result of listing a folder, and the state of the folder just before the listing."""

    state: tuple[int, int, int] | None  # device, inode, mtime_ns
    first_listed_at_s: float  # when this state was listed first
    # listed again after the timestamp resolution has passed, so any later change alters the mtime
    settled: bool = False
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    has_claims: bool = False


class Tree:
    """The folders below a root, and the skipped files in them.

    A folder is listed again only if its (device, inode, mtime) has changed, or if it was listed
    only once, or twice within two seconds. Time stamps are compared with one another, never with a
    clock. A change that does not affect the folder itself, such as a file that is overwritten in
    place, is found by a deep walk.

    Args:
        root: The folder.
        skipped_report: Collects skipped files.
        clock: Returns the current time in seconds; monotonic.
        refusal: Returns why a file of this name is skipped; ``None`` if it is read.
        ignore: Patterns of names, or of paths below the root, to skip.
        recursive: Whether to walk subfolders.
        excluded: Folders that are not part of the input.
        follow: Whether to walk linked folders.
        marker: Suffix of the file that must be beside an image; ``None`` for none.

    Attributes:
        n_listed: How many folders the last walk listed.
    """

    def __init__(
        self,
        root: Path,
        skipped_report: SkippedFilesReport,
        clock: Callable[[], float],
        *,
        refusal: Callable[[str], str | None] = not_an_image,
        ignore: Sequence[str] = (),
        recursive: bool = True,
        excluded: Sequence[Path] = (),
        follow: bool = True,
        marker: str | None = None,
    ) -> None:
        self.root = str(root)
        self.refusal = refusal
        self.recursive = recursive
        self.excluded = excluded
        self.follow = follow
        self.marker = marker
        self.n_listed = 0
        self._skipped_report = skipped_report
        self._clock = clock
        self._ignored = re.compile("|".join(map(translate, ignore))).match if ignore else None
        self._folders: dict[str, _Folder] = {}
        self._visited: dict[str, _Folder] = {}
        self._device: int | None = None

    def skipped(self) -> Counter[str]:
        """Return how many files and folders are skipped, by reason."""
        total: Counter[str] = Counter()
        for folder in self._folders.values():
            if folder.skipped:
                total.update(folder.skipped)
        return total

    def claim_folders(self) -> list[str]:
        """Return the ids of the folders that hold claimed files."""
        return [folder_id for folder_id, folder in self._folders.items() if folder.has_claims]

    def invalidate(self, asset_id: str) -> None:
        """List the folder of this file again at the next walk."""
        self._folders.pop(asset_id.rpartition("/")[0], None)

    def path(self, id: str) -> str:
        """Return the path of a file or folder; that of the root for the empty id."""
        return f"{self.root}/{id}" if id else self.root

    def walk(self, *, deep: bool = False) -> Iterator[FoundFile]:
        """Yield the images in folders that have changed, or in all.

        As in ``pipeline.sources.scan``, each real folder is visited once, and folders are visited
        before linked folders.

        Args:
            deep: List all folders.

        Raises:
            OSError: The root cannot be listed, or an empty folder of another file system is in
                its place. The known folders are kept.
        """
        self.n_listed = 0
        self._visited = {}
        excluded = {_identity(path, follow=False) for path in self.excluded}
        excluded.discard(_identity(self.root))
        seen = set(map(_identity, Path(os.path.realpath(self.root)).parents))
        todo, links = [""], list[str]()
        while todo or links:
            if not todo:
                links.sort(key=natural_key, reverse=True)
                todo.append(links.pop())
            folder_id = todo.pop()
            try:
                status = os.stat(self.path(folder_id))  # noqa: PTH116
            except OSError as exc:
                self._unreadable(folder_id, exc)
                continue
            identity = file_identity(status)
            if identity in seen:
                self._skip(folder_id, "link to a directory that is already included")
                continue
            if identity in excluded:
                self._visited[folder_id] = _Folder(None, 0.0)
                continue
            seen.add(identity)
            yield from self._folder(folder_id, status, deep)
            folder = self._visited.get(folder_id)
            if folder is None:
                continue
            prefix = f"{folder_id}/" if folder_id else ""
            todo += [prefix + name for name in folder.folders]
            links += [prefix + name for name in folder.links]
        self._folders = self._visited

    def _folder(self, folder_id: str, status: os.stat_result, deep: bool) -> Iterator[FoundFile]:
        now_s = self._clock()  # after the state was read and before the folder is listed
        state = *file_identity(status), status.st_mtime_ns
        before = self._folders.get(folder_id)
        same = before is not None and before.state == state
        if before is not None and same and before.settled and not deep:
            self._visited[folder_id] = before
            return
        folder = _Folder(state, before.first_listed_at_s if before is not None and same else now_s)
        folder.settled = now_s - folder.first_listed_at_s >= _TIMESTAMP_RESOLUTION_S
        try:
            with os.scandir(self.path(folder_id)) as listing:
                entries = list(listing)
            if not folder_id:
                self._check_mount(status.st_dev, entries)
        except OSError as exc:
            self._unreadable(folder_id, exc)
            return
        self.n_listed += 1
        self._visited[folder_id] = folder
        names = {entry.name for entry in entries}
        if folder_id and names.issuperset(OF_A_RUN):
            folder.skipped["results of a run"] = 1
            return
        examples: dict[str, str] = {}
        prefix = f"{folder_id}/" if folder_id else ""
        for entry in entries:
            entry_id = prefix + entry.name
            folder.has_claims |= entry.name == CLAIMS
            try:
                reason, file = self._entry(entry_id, entry, folder, names)
            except OSError as exc:  # the entry has disappeared, or is unreadable
                reason, file = describe_os_error(exc), None
                if exc.errno not in NOT_FOUND:
                    folder.settled = False  # the folder would not change when it can be read
            if file is not None:
                yield file
            elif reason:
                folder.skipped[reason] += 1
                examples.setdefault(reason, entry_id)
        for reason, example in examples.items():
            more = folder.skipped[reason] - (before.skipped[reason] if before else 0)
            if more > 0:
                self._skipped_report.add(reason, example, more)

    def _entry(
        self, entry_id: str, entry: os.DirEntry[str], folder: _Folder, names: set[str]
    ) -> tuple[str | None, FoundFile | None]:
        """Return why an entry is skipped, or the file; a folder is added to ``folder``."""
        name = entry.name
        reason = skip_reason(name)
        if reason is None and self._ignored and (self._ignored(name) or self._ignored(entry_id)):
            reason = "ignored"
        if reason:
            return reason, None
        status = None
        if entry.is_symlink():
            try:
                status = entry.stat()
            except OSError as exc:
                if exc.errno not in NOT_FOUND:
                    raise
        elif entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
        else:
            return "not a regular file", None
        if status is not None and stat.S_ISDIR(status.st_mode):
            if not self.recursive:
                return "directory that is not searched", None
            if entry.is_symlink() and not self.follow:
                return "linked directory (followed only with runner.after=keep)", None
            (folder.links if entry.is_symlink() else folder.folders).append(name)
            return None, None
        if status is not None and not stat.S_ISREG(status.st_mode):
            return "not a regular file", None
        if self.marker and name.endswith(self.marker):
            return None, None
        reason = self.refusal(name)
        if reason is None and self.marker and name + self.marker not in names:
            reason = "without a marker"
        return reason, None if reason else FoundFile(entry_id, status)

    def _check_mount(self, device: int, entries: Sequence[object]) -> None:
        """Raise OSError if an unmounted file system has left its empty mount point here."""
        if self._device is not None and device != self._device and not entries:
            raise OSError(errno.ENOTCONN, "unmounted")
        self._device = device

    def _unreadable(self, folder_id: str, exc: OSError) -> None:
        if not folder_id:
            raise exc
        if exc.errno in NOT_FOUND:
            return  # the folder has disappeared since its parent was listed
        before = self._folders.get(folder_id)
        reason = f"directory that cannot be read ({describe_os_error(exc)})"
        self._visited[folder_id] = _Folder(None, 0.0, skipped=Counter([reason]))
        if before is None or not before.skipped[reason]:
            self._skipped_report.add(reason, folder_id)

    def _skip(self, folder_id: str, reason: str) -> None:
        self._visited[folder_id] = _Folder(None, 0.0, skipped=Counter([reason]))


def _identity(path: str | Path, *, follow: bool = True) -> tuple[int, int] | None:
    try:
        return file_identity(os.stat(path, follow_symlinks=follow))  # noqa: PTH116
    except OSError:
        return None
