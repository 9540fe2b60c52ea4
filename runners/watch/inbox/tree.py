"""Walk a folder again and again; list only what has changed since the last time."""

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

from pipeline.sources.decode.reading import why
from pipeline.sources.scan import OF_A_RUN, left_out, natural_key, not_an_image
from runners.watch.files.claims import FOLDER as CLAIMS
from runners.watch.inbox.news import News

# The coarsest time stamps of a file system (FAT): within them a folder may change once more and
# keep its mtime.
_TICK_S = 2.0
NOWHERE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)


@dataclass(slots=True)
class Entry:
    """A name of an image in a folder that was listed.

    Attributes:
        id: Path relative to the root.
        status: Its size, times and inode, links followed; ``None`` for a link to nowhere.
    """

    id: str
    status: os.stat_result | None


@dataclass(slots=True)
class _Folder:
    """What a listing found, and the folder's state as it was just before."""

    state: tuple[int, int, int] | None  # device, inode, mtime_ns
    first_s: float  # when this state was listed first
    settled: bool = False  # listed again a tick later: a later change shows in the state
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    has_claims: bool = False


class Tree:
    """The folders below a root, and what is in them that is not an image to be read.

    A folder is listed again only if its (device, inode, mtime) differs, or if it was listed but
    once, or twice within two seconds: time stamps are compared with one another, never with a
    clock. What changes without a trace in the folder itself, such as a file that is written over
    in place, is found by a deep walk.

    Args:
        root: The folder.
        news: Is told of entries that are left out.
        clock: Seconds, monotonic.
        ignore: Patterns of names, or of paths below the root, that are left out.
        recursive: Go into sub-folders.
        leave_out: Folders that are not part of the input.
        follow: Go into linked folders.
        marker: Suffix of the file that must lie beside an image; ``None`` for none.
    """

    def __init__(
        self,
        root: Path,
        news: News,
        clock: Callable[[], float],
        *,
        ignore: Sequence[str] = (),
        recursive: bool = True,
        leave_out: Sequence[Path] = (),
        follow: bool = True,
        marker: str | None = None,
    ) -> None:
        self.root = str(root)
        self.recursive = recursive
        self.leave_out = leave_out
        self.follow = follow
        self.marker = marker
        self.n_listed = 0
        self._news = news
        self._clock = clock
        self._ignored = re.compile("|".join(map(translate, ignore))).match if ignore else None
        self._folders: dict[str, _Folder] = {}
        self._visited: dict[str, _Folder] = {}
        self._device: int | None = None

    def skipped(self) -> Counter[str]:
        """Return how many entries are left out, by reason."""
        total: Counter[str] = Counter()
        for folder in self._folders.values():
            if folder.skipped:
                total.update(folder.skipped)
        return total

    def left_behind(self) -> list[str]:
        """Return the ids of the folders that have files under private names."""
        return [folder_id for folder_id, folder in self._folders.items() if folder.has_claims]

    def stale(self, asset_id: str) -> None:
        """List the folder of this file again at the next walk."""
        self._folders.pop(asset_id.rpartition("/")[0], None)

    def path(self, id: str) -> str:
        """Return the path of a file or folder; that of the root for the empty id."""
        return f"{self.root}/{id}" if id else self.root

    def walk(self, *, deep: bool = False) -> Iterator[Entry]:
        """Yield the images in folders that have changed, or in all.

        ``n_listed`` then says how many folders were listed. As in ``scan``, each real folder is
        visited once, and one that is not reached by a link goes before one that is.

        Raises:
            OSError: The root cannot be listed, or an empty folder of another file system is in
                its place; what is known of its folders stays.
        """
        self.n_listed = 0
        self._visited = {}
        apart = {_identity(path, follow=False) for path in self.leave_out} - {_identity(self.root)}
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
            identity = status.st_dev, status.st_ino
            if identity in apart or identity in seen:
                reason = "link to a folder that is taken already"
                self._leave(folder_id, reason if identity in seen else "not part of the input")
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

    def _folder(self, folder_id: str, status: os.stat_result, deep: bool) -> Iterator[Entry]:
        now_s = self._clock()  # after the state was read, and before the listing
        state = status.st_dev, status.st_ino, status.st_mtime_ns
        before = self._folders.get(folder_id)
        same = before is not None and before.state == state
        if before is not None and same and before.settled and not deep:
            self._visited[folder_id] = before
            return
        folder = _Folder(state, before.first_s if before is not None and same else now_s)
        folder.settled = now_s - folder.first_s >= _TICK_S
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
            except OSError as exc:  # it has gone since it was listed, or was never allowed
                reason, file = why(exc), None
                if exc.errno not in NOWHERE:
                    folder.settled = False  # no trace in the folder would show that it can be read
            if file is not None:
                yield file
            elif reason:
                folder.skipped[reason] += 1
                examples.setdefault(reason, entry_id)
        for reason, example in examples.items():
            more = folder.skipped[reason] - (before.skipped[reason] if before else 0)
            if more > 0:
                self._news.note(reason, example, more)

    def _entry(
        self, entry_id: str, entry: os.DirEntry[str], folder: _Folder, names: set[str]
    ) -> tuple[str | None, Entry | None]:
        """Sort an entry in, or return why it is left out, or the file that it is."""
        name = entry.name
        reason = left_out(name)
        if reason is None and self._ignored and (self._ignored(name) or self._ignored(entry_id)):
            reason = "ignored"
        if reason:
            return reason, None
        status = None
        if entry.is_symlink():
            try:
                status = entry.stat()
            except OSError as exc:
                if exc.errno not in NOWHERE:
                    raise
        elif entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
        else:
            return "not a regular file", None
        if status is not None and stat.S_ISDIR(status.st_mode):
            if not self.recursive:
                return "folder that is not gone into", None
            if entry.is_symlink() and not self.follow:
                return "linked folder, which is entered with runner.after=keep only", None
            (folder.links if entry.is_symlink() else folder.folders).append(name)
            return None, None
        if status is not None and not stat.S_ISREG(status.st_mode):
            return "not a regular file", None
        if self.marker and name.endswith(self.marker):
            return None, None
        reason = not_an_image(name)
        if reason is None and self.marker and name + self.marker not in names:
            reason = "without a marker"
        return reason, None if reason else Entry(entry_id, status)

    def _check_mount(self, device: int, entries: Sequence[object]) -> None:
        """Tell an empty folder from the mount point that an unmounted file system leaves."""
        if self._device is not None and device != self._device and not entries:
            raise OSError(errno.ENOTCONN, "unmounted")
        self._device = device

    def _unreadable(self, folder_id: str, exc: OSError) -> None:
        if not folder_id:
            raise exc
        if exc.errno in NOWHERE:
            return  # gone since its parent was listed
        before = self._folders.get(folder_id)
        reason = f"folder that cannot be read ({why(exc)})"
        self._visited[folder_id] = _Folder(None, 0.0, skipped=Counter([reason]))
        if before is None or not before.skipped[reason]:
            self._news.note(reason, folder_id)

    def _leave(self, folder_id: str, reason: str) -> None:
        self._visited[folder_id] = _Folder(None, 0.0, skipped=Counter([reason]))


def _identity(path: str | Path, *, follow: bool = True) -> tuple[int, int]:
    try:
        status = os.stat(path, follow_symlinks=follow)  # noqa: PTH116
    except OSError:
        return -1, -1  # nothing that is there
    return status.st_dev, status.st_ino
