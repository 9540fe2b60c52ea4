"""Finds the files of a watched folder that are complete and new, by scanning it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from pipeline.errors import RootGoneError
from pipeline.sources.scan import natural_key, not_an_image
from pipeline.system.os_errors import describe_os_error
from runners.watch.inbox.skipped import SkippedFilesReport
from runners.watch.inbox.tree import NOT_FOUND, Tree
from runners.watch.inbox.versions import Arrival, Candidate, Versions
from runners.watch.inbox.writers import WriterCheck
from runners.watch.schedule import Schedule

_OPEN = "still open for writing"


class Inbox:
    """Returns files that are complete, each version of a file once.

    A version is a path with a size and a modification time. It is returned when two checks at
    least ``settle_s`` apart have seen it with the same inode, also at start-up, and no process
    has the file open for writing. Times of files are compared only with one another, so their
    clocks need not be right. Use on one thread only.

    Args:
        root: The folder.
        schedule: Provides ``settle_s`` and the waits derived from it; records the cost of scans.
        ready: When a file is complete: ``settled``, when it has not changed for ``settle_s``;
            ``marker``, when a file of its name and ``marker`` is beside it; ``rename``, as soon
            as it has its name, for writers that write under a temporary name first.
        marker: Suffix of the marker's name. A writer that replaces a file removes its marker first.
        refusal: Returns why a file of this name is skipped; ``None`` if it is read.
        ignore: Patterns (``fnmatch``) of names, or of paths below the root, to skip.
        recursive: Whether to scan subfolders.
        excluded: Folders that are not part of the input: the output, destinations of moved files.
        follow: Whether to scan linked folders, which may be outside of the root.
    """

    def __init__(
        self,
        root: Path,
        schedule: Schedule,
        *,
        ready: Literal["settled", "marker", "rename"] = "settled",
        marker: str = ".done",
        refusal: Callable[[str], str | None] = not_an_image,
        ignore: Sequence[str] = (),
        recursive: bool = True,
        excluded: Sequence[Path] = (),
        follow: bool = True,
    ) -> None:
        self.root = root
        self._schedule = schedule
        self._settle_s = schedule.settle_s if ready == "settled" else 0.0
        self._marker = marker if ready == "marker" else None
        self._skipped_report = SkippedFilesReport(schedule.now)
        self._tree = Tree(
            root,
            self._skipped_report,
            schedule.now,
            refusal=refusal,
            ignore=ignore,
            recursive=recursive,
            excluded=excluded,
            follow=follow,
            marker=self._marker,
        )
        self._known = Versions()
        self._candidates: dict[str, Candidate] = {}
        self._n_checks = 0
        self._was_gone = False

    def remember(self, id: str, size: int, mtime_ns: int) -> None:
        """Record that only this version of a file is processed."""
        self._known.add(id, size, mtime_ns)

    def forget(self, id: str) -> None:
        """Forget a file: if it returns, in any version, it is new."""
        self._known.remove(id)
        self._candidates.pop(id, None)

    def recheck(self, arrival: Arrival) -> None:
        """Return a file once more when it has settled, whether or not it has changed."""
        self._check_later(arrival, max(self._settle_s, self._schedule.recheck_s))

    def retry(self, arrival: Arrival) -> bool:
        """Return a file that cannot be decoded once more, if it stays unchanged for long.

        Returns:
            False if it will not be: its writer declares when it is complete, or this was the retry.
        """
        if arrival.is_retry or not self._settle_s:
            return False
        self._check_later(arrival, self._schedule.retry_settle_s)
        self._candidates[arrival.id].is_retry = True
        return True

    def scan(self, deep: bool = False) -> list[Arrival]:
        """Scan the folder.

        Args:
            deep: List every folder, not only those that have changed. This finds files that were
                overwritten in place long after they were returned. The first scan is deep.

        Returns:
            The files that are complete and new, by the scan that saw them first, then in natural
            order.

        Raises:
            RootGoneError: The folder is gone or cannot be read; nothing is forgotten.
        """
        self._n_checks += 1
        started_s, started_cpu_s = self._schedule.now(), time.thread_time()
        # Files that a deep scan does not find are forgotten, which bounds the memory. This does not
        # apply after the folder was gone, because its files may reappear one after another.
        pruned = self._known.pruned() if deep and not self._was_gone else nullcontext()
        try:
            with pruned:
                for file in self._tree.walk(deep=deep or self._was_gone):
                    self._update(file.id, file.status)
        except OSError as exc:
            self._was_gone = True
            raise RootGoneError(
                f"cannot read the watched folder {self.root}: {describe_os_error(exc)}. "
                "Its files are processed when it is back"
            ) from exc
        self._was_gone = False
        for asset_id, candidate in list(self._candidates.items()):
            if candidate.last_check != self._n_checks:
                self._check(asset_id, candidate)
        found = self._hand_out(started_s)
        self._schedule.record_scan(
            wall_s=self._schedule.now() - started_s,
            cpu_s=time.thread_time() - started_cpu_s,
            is_deep=deep,
            is_idle=not self._tree.n_listed,
        )
        return found

    def check_settled(self) -> list[Arrival]:
        """Check only files that have been waited for long enough; return those to process."""
        now_s = self._schedule.now()
        self._n_checks += 1
        for asset_id, candidate in list(self._candidates.items()):
            if self._due_in_s(candidate, now_s) == 0.0:
                self._check(asset_id, candidate)
        return self._hand_out(now_s)

    def due_in_s(self) -> float | None:
        """Return how long until a file may be complete, in seconds; ``None`` if none is waiting."""
        now_s = self._schedule.now()
        due = (self._due_in_s(candidate, now_s) for candidate in self._candidates.values())
        return min((seconds for seconds in due if seconds is not None), default=None)

    def settling(self) -> tuple[str | None, int]:
        """Return the first file that has not settled yet, and how many there are."""
        ids = [asset_id for asset_id, each in self._candidates.items() if self._is_settling(each)]
        return (ids[0] if ids else None), len(ids)

    @property
    def claim_folders(self) -> list[str]:
        """Ids of the folders in which a killed run may have left claimed files."""
        return self._tree.claim_folders()

    @property
    def has_retries(self) -> bool:
        """Whether files that could not be decoded wait to be returned again."""
        return any(each.is_retry and not each.handed_out for each in self._candidates.values())

    @property
    def n_pending(self) -> int:
        """Number of files that have been seen and not returned."""
        return sum(not candidate.handed_out for candidate in self._candidates.values())

    @property
    def skipped(self) -> Counter[str]:
        """Number of files and folders that are skipped at present, by reason."""
        reasons = (candidate.reason for candidate in self._candidates.values())
        return self._tree.skipped() + Counter(reason for reason in reasons if reason)

    def skipped_report(self) -> list[str]:
        """Return lines about skipped files, at most one per reason and hour."""
        return self._skipped_report.lines()

    def _update(self, asset_id: str, status: os.stat_result | None) -> None:
        """Update the candidate of a file that was found."""
        # read the clock after the status, so that two checks are never closer than they seem
        now_s = self._schedule.now()
        version = (status.st_size, status.st_mtime_ns, status.st_ino) if status else None
        candidate = self._candidates.get(asset_id)
        if version and self._known.is_latest(asset_id, *version[:2]):
            if candidate is None:
                return
            if not (candidate.handed_out and candidate.version == version):
                del self._candidates[asset_id]  # changed back to the processed version
                return
        if candidate is None:
            candidate = Candidate(self._n_checks, now_s, self._settle_s, version=version)
            self._candidates[asset_id] = candidate
        elif candidate.version != version:
            candidate.version, candidate.since_s = version, now_s
            candidate.handed_out, candidate.reason = False, None
            candidate.wait_s, candidate.is_retry = self._settle_s, False
        candidate.last_check = self._n_checks
        if version is None:
            self._skip(asset_id, candidate, "dangling link")
        elif not version[0] and now_s - candidate.since_s >= self._settle_s:
            self._skip(asset_id, candidate, "empty file")

    def _check(self, asset_id: str, candidate: Candidate) -> None:
        """Check the file of a candidate."""
        age_s = self._schedule.now() - candidate.since_s
        if candidate.handed_out and age_s > self._schedule.observe_s:
            del self._candidates[asset_id]
            return
        path = self._tree.path(asset_id)
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as exc:
            if exc.errno not in NOT_FOUND:
                self._skip(asset_id, candidate, describe_os_error(exc))
            elif candidate.version is not None or not os.path.lexists(path):
                # if the file reappears, as when the root does, its folder may look unchanged
                self._tree.invalidate(asset_id)
                del self._candidates[asset_id]
            return
        self._update(asset_id, status)

    def _check_later(self, arrival: Arrival, wait_s: float) -> None:
        self._known.remove(arrival.id)
        version = arrival.size, arrival.mtime_ns, arrival.inode
        candidate = Candidate(self._n_checks, self._schedule.now(), wait_s, version=version)
        self._candidates[arrival.id] = candidate

    def _is_settling(self, candidate: Candidate) -> bool:
        return not candidate.handed_out and candidate.reason in (None, _OPEN)

    def _due_in_s(self, candidate: Candidate, now_s: float) -> float | None:
        if not self._is_settling(candidate):
            return None
        return max(0.0, candidate.since_s + candidate.wait_s - now_s)

    def _hand_out(self, now_s: float) -> list[Arrival]:
        """Return the files that the current check, started at ``now_s``, has found complete."""
        found = []
        writers = WriterCheck()
        for asset_id, candidate in self._candidates.items():
            if candidate.last_check != self._n_checks or candidate.handed_out:
                continue
            if not candidate.version or not candidate.version[0]:
                continue
            if candidate.wait_s and now_s - candidate.since_s < candidate.wait_s:
                continue
            path = self._tree.path(asset_id)
            if self._marker and not os.path.lexists(path + self._marker):
                self._skip(asset_id, candidate, "without a marker")
            elif not os.access(path, os.R_OK):
                self._skip(asset_id, candidate, "no permission")
            elif self._settle_s and writers.is_open_for_writing(path):
                candidate.since_s = now_s
                self._skip(asset_id, candidate, _OPEN)
            else:
                candidate.handed_out, candidate.reason, candidate.since_s = True, None, now_s
                size, mtime_ns, inode = candidate.version
                self._known.add(asset_id, size, mtime_ns)
                arrival = Arrival(asset_id, Path(path), size, mtime_ns, inode, candidate.is_retry)
                found.append((candidate.first_check, arrival))
        found.sort(key=lambda item: (item[0], natural_key(item[1].id)))
        return [arrival for _, arrival in found]

    def _skip(self, asset_id: str, candidate: Candidate, reason: str) -> None:
        if candidate.reason != reason:
            candidate.reason = reason
            self._skipped_report.add(reason, asset_id)
