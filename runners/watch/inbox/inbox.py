"""Find the files of a watched folder that are complete and new. A scan is the truth."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from pipeline.errors import RootGoneError
from pipeline.sources.decode.reading import why
from pipeline.sources.scan import natural_key
from runners.watch.inbox.news import News
from runners.watch.inbox.tree import NOWHERE, Tree
from runners.watch.inbox.versions import Arrival, Candidate, Versions
from runners.watch.inbox.writers import Writers

# What was handed out is looked at for so many settle times more: a writer that had only paused
# leaves no trace in the folder, and the next deep look may be far.
_AFTERWARDS = 12
# Settle times that what could not be decoded must stay as it is: a writer may have closed a part.
_DOUBT = 4
_AGAIN_S = 1.0  # before a file that was handed out is looked at again, at least
_WRITTEN = "open for writing, and waited for"
# Looking, and looking deep, may take this share of one core: when nothing changes, and when
# something does. Of the time in which a look waits for the disk, a tenth counts.
_IDLE, _BUSY = 0.004, 0.2
_WAITING = 0.1


class Inbox:
    """Tells which files have arrived whole, each version of a file once.

    A version is a path with a size and a modification time. It is handed out when two looks at
    least ``settle_s`` apart, at start-up too, have seen it with one inode, and nobody has it open
    for writing. Times of files are compared with one another only, so their clocks may show
    anything. For one thread.

    Args:
        root: The folder.
        ready: When a file is complete: ``settled``, when it has not changed for a while;
            ``marker``, when a file of its name and ``marker`` lies beside it; ``rename``, as
            soon as it has its name, for writers that use temporary ones before.
        settle_s: How long a file must stay unchanged, in seconds.
        marker: What ``x.jpg.done`` has and ``x.jpg`` has not. Who writes ``x.jpg`` again takes
            it away first.
        ignore: Patterns (``fnmatch``) of names, or of paths below the root, to leave out.
        recursive: Go into sub-folders.
        leave_out: Folders that are not part of the input: the output, what was moved away.
        follow: Go into linked folders, which may lead out of the root.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        root: Path,
        *,
        ready: Literal["settled", "marker", "rename"] = "settled",
        settle_s: float = 5.0,
        marker: str = ".done",
        ignore: Sequence[str] = (),
        recursive: bool = True,
        leave_out: Sequence[Path] = (),
        follow: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root = root
        self._settle_s = settle_s if ready == "settled" else 0.0
        self._afterwards_s = _AFTERWARDS * settle_s
        self._marker = marker if ready == "marker" else None
        self._clock = clock
        self._news = News(clock)
        self._tree = Tree(
            root,
            self._news,
            clock,
            ignore=ignore,
            recursive=recursive,
            leave_out=leave_out,
            follow=follow,
            marker=self._marker,
        )
        self._known = Versions()
        self._candidates: dict[str, Candidate] = {}
        self._n_looks = 0
        self._was_gone = False
        self._took_s = self._deep_took_s = 0.0
        self._deep_at: float | None = None

    def remember(self, id: str, size: int, mtime_ns: int) -> None:
        """Note that this version, of all of the file, is the one that is done."""
        self._known.add(id, size, mtime_ns)

    def forget(self, id: str) -> None:
        """Take a file that comes up again, in whatever version, for a new one."""
        self._known.remove(id)
        self._candidates.pop(id, None)

    def again(self, arrival: Arrival) -> None:
        """Hand a file out once more when it has settled, whether or not it has changed."""
        self._look_later(arrival, max(self._settle_s, _AGAIN_S))

    def doubt(self, arrival: Arrival) -> bool:
        """Hand out a file that cannot be decoded once more, if it stays as it is for long.

        Returns:
            Whether that will be; not if its writer says when it is complete, nor a second time.
        """
        if arrival.again or not self._settle_s:
            return False
        self._look_later(arrival, _DOUBT * self._settle_s)
        self._candidates[arrival.id].doubtful = True
        return True

    def look(self, deep: bool = False) -> list[Arrival]:
        """Scan, and return what is ready and new, in order of first sight, then natural order.

        Args:
            deep: List every folder, not only those that show a change; finds files that were
                written over in place long after they were handed out. The first look is deep.

        Raises:
            RootGoneError: The folder is not there or cannot be read; nothing is forgotten.
        """
        self._n_looks += 1
        started, started_cpu = self._clock(), time.thread_time()
        # What a deep look does not see is forgotten, so that memory is for what is there. What
        # comes back may do so piecemeal, and look as if nothing had happened.
        swept = self._known.swept() if deep and not self._was_gone else nullcontext()
        try:
            with swept:
                for entry in self._tree.walk(deep=deep or self._was_gone):
                    self._see(entry.id, entry.status)
        except OSError as exc:
            self._was_gone = True
            raise RootGoneError(
                f"cannot look into the watched folder {self.root} ({why(exc)}); "
                "files will be taken again once it is back"
            ) from exc
        self._was_gone = False
        for asset_id, candidate in list(self._candidates.items()):
            if candidate.looked != self._n_looks:
                self._look_again(asset_id, candidate)
        found = self._ready(started)
        ended = self._clock()
        self._took_s = max(time.thread_time() - started_cpu, _WAITING * (ended - started))
        if deep or self._deep_at is None:
            self._deep_at, self._deep_took_s = ended, self._took_s
        return found

    def settle(self) -> list[Arrival]:
        """Look only at the files whose time has come, and return those that are ready."""
        now = self._clock()
        self._n_looks += 1
        for asset_id, candidate in list(self._candidates.items()):
            if self._due_s(candidate, now) == 0.0:
                self._look_again(asset_id, candidate)
        return self._ready(now)

    def due_in_s(self) -> float | None:
        """Return how long until a file may be ready, in seconds; ``None`` if none is awaited."""
        now = self._clock()
        due = (self._due_s(candidate, now) for candidate in self._candidates.values())
        return min((seconds for seconds in due if seconds is not None), default=None)

    def pause_s(self, poll_s: float, *, woken: bool = False) -> float:
        """Return how long to wait between looks, in seconds: ``poll_s``, or more if they are slow.

        While nothing changes, looks then take at most 0.4 % of one core.

        Args:
            poll_s: The wish.
            woken: Something has changed: how soon to look, at up to 20 % of one core.
        """
        if woken:
            return self._took_s / _BUSY
        return max(poll_s, self._took_s / (_BUSY if self._tree.n_listed else _IDLE))

    def deep_is_due(self) -> bool:
        """Say whether the last deep look is so long ago that one more takes 0.4 % of one core."""
        if self._deep_at is None:
            return True
        return self._clock() - self._deep_at >= self._deep_took_s / _IDLE

    @property
    def left_behind(self) -> list[str]:
        """Ids of the folders in which a killed run may have left files under private names."""
        return self._tree.left_behind()

    @property
    def has_doubts(self) -> bool:
        """Whether files that could not be decoded wait to be handed out once more."""
        return any(c.doubtful and not c.given for c in self._candidates.values())

    @property
    def n_pending(self) -> int:
        """How many files have been seen but not been handed out."""
        return sum(not candidate.given for candidate in self._candidates.values())

    @property
    def skipped(self) -> Counter[str]:
        """How many entries are left out at present, by reason."""
        waiting = (candidate.reason for candidate in self._candidates.values())
        return self._tree.skipped() + Counter(reason for reason in waiting if reason)

    def news(self) -> list[str]:
        """Return lines on entries that have been left out, at most one an hour for a cause."""
        return self._news.lines()

    def _see(self, asset_id: str, status: os.stat_result | None) -> None:
        now_s = self._clock()  # after the status was read, so that two of them are far enough apart
        version = (status.st_size, status.st_mtime_ns, status.st_ino) if status else None
        candidate = self._candidates.get(asset_id)
        if version and self._known.holds(asset_id, *version[:2]):
            if candidate is None:
                return
            if not (candidate.given and candidate.version == version):
                del self._candidates[asset_id]  # it has become again what it was
                return
        if candidate is None:
            candidate = Candidate(self._n_looks, now_s, self._settle_s, version=version)
            self._candidates[asset_id] = candidate
        elif candidate.version != version:
            candidate.version, candidate.since_s = version, now_s
            candidate.given, candidate.reason = False, None
            candidate.wait_s, candidate.doubtful = self._settle_s, False
        candidate.looked = self._n_looks
        if version is None:
            self._wait(asset_id, candidate, "dangling link")
        elif not version[0] and now_s - candidate.since_s >= self._settle_s:
            self._wait(asset_id, candidate, "empty file")

    def _look_again(self, asset_id: str, candidate: Candidate) -> None:
        if candidate.given and self._clock() - candidate.since_s > self._afterwards_s:
            del self._candidates[asset_id]
            return
        path = self._tree.path(asset_id)
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as exc:
            if exc.errno not in NOWHERE:
                self._wait(asset_id, candidate, why(exc))
            elif candidate.version is not None or not os.path.lexists(path):
                # if it comes back, as it does with the root, its folder may look unchanged
                self._tree.stale(asset_id)
                del self._candidates[asset_id]
            return
        self._see(asset_id, status)

    def _look_later(self, arrival: Arrival, wait_s: float) -> None:
        self._known.remove(arrival.id)
        version = arrival.size, arrival.mtime_ns, arrival.inode
        candidate = Candidate(self._n_looks, self._clock(), wait_s, version=version)
        self._candidates[arrival.id] = candidate

    def _due_s(self, candidate: Candidate, now_s: float) -> float | None:
        if candidate.given or candidate.reason not in (None, _WRITTEN):
            return None
        return max(0.0, candidate.since_s + candidate.wait_s - now_s)

    def _ready(self, now_s: float) -> list[Arrival]:
        """Hand out what this look has found ready; ``now_s`` is when it began."""
        found = []
        writers = Writers()
        for asset_id, candidate in self._candidates.items():
            if candidate.looked != self._n_looks or candidate.given:
                continue
            if not candidate.version or not candidate.version[0]:
                continue
            if candidate.wait_s and now_s - candidate.since_s < candidate.wait_s:
                continue
            path = self._tree.path(asset_id)
            if self._marker and not os.path.lexists(path + self._marker):
                self._wait(asset_id, candidate, "without a marker")
            elif not os.access(path, os.R_OK):
                self._wait(asset_id, candidate, "no permission")
            elif self._settle_s and writers.write(path):
                candidate.since_s = now_s
                self._wait(asset_id, candidate, _WRITTEN)
            else:
                candidate.given, candidate.reason, candidate.since_s = True, None, now_s
                size, mtime_ns, inode = candidate.version
                self._known.add(asset_id, size, mtime_ns)
                arrival = Arrival(asset_id, Path(path), size, mtime_ns, inode, candidate.doubtful)
                found.append((candidate.order, arrival))
        return _in_order(found)

    def _wait(self, asset_id: str, candidate: Candidate, reason: str) -> None:
        if candidate.reason != reason:
            candidate.reason = reason
            self._news.note(reason, asset_id)


def _in_order(found: list[tuple[int, Arrival]]) -> list[Arrival]:
    """Sort by look, then naturally."""
    found.sort(key=lambda item: (item[0], natural_key(item[1].id)))
    return [arrival for _, arrival in found]
