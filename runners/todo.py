"""Which inputs are still to do: what the source lists, held against what the ledger remembers."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice

from pipeline.errors import PipelineError
from pipeline.protocols import Asset, SkippedEntry, SkippingSource, Source
from runners.rundir.ledger.ledger import Entry, Ledger

_AT_ONCE = 500
_GRAIN_NS = 2_000_000_000  # the coarsest clock of a file system: FAT's

NEW, CHANGED, FAILED = "new", "changed", "failed"  # to be done
DONE, POISON, GONE, LATER = "done", "poison", "gone", "later"  # not to be done
TO_DO = (NEW, CHANGED, FAILED)


@dataclass(slots=True)
class Todo:
    """Walks through the inputs once and yields those that are to be done, with their places.

    An input is done when its content is that of the file that was decoded: size and time of
    change are looked at first, the SHA-256 decides. What failed is to be done again, but for what
    killed its worker each time. A file that cannot be looked at any more keeps its result.

    Attributes:
        source: The inputs, in order.
        ledger: ``None`` if nothing was ever done.
        only_failed: Do those that failed and no others, poison too.
        poison_again: Do what killed its worker again.
        first_place: Of the first input.
        keep_places: Inputs that the ledger knows stay where they are.
        by_content: Trust no size or time of change, only the SHA-256.
        places: Of the entries that are of this source; ``None``: all. Others stay where they are.
        counts: Inputs seen so far by state: ``new``, ``changed``, ``failed`` (all three are to
            be done), ``done``, ``poison``, ``gone``, ``later``.
        known: How many of them the ledger knows, as this source's.
        moved: Whether any of those has another place than it had.
        unseen_failures: Ids that are taken out of it as they are seen.
    """

    source: Iterable[Asset]
    ledger: Ledger | None = None
    only_failed: bool = False
    poison_again: bool = False
    first_place: int = 0
    keep_places: bool = False
    by_content: bool = False
    places: range | None = None
    counts: Counter[str] = field(default_factory=Counter)
    known: int = 0
    moved: bool = False
    unseen_failures: set[str] = field(default_factory=set)

    @property
    def not_to_do(self) -> int:
        """How many inputs seen so far are not to be done."""
        return self.counts.total() - sum(self.counts[state] for state in TO_DO)

    def __iter__(self) -> Iterator[tuple[Asset, int]]:
        """Yield each asset that is to be done, and its place."""
        for asset, place, state in self.states():
            if state in TO_DO:
                yield asset, place

    def states(self) -> Iterator[tuple[Asset, int, str]]:
        """Yield every asset, its place and its state; places in the ledger follow."""
        assets = iter(self.source)
        place = self.first_place
        while chunk := list(islice(assets, _AT_ONCE)):
            unchanged = self._unchanged(chunk, place)
            others = [asset.id for asset in chunk if asset.id not in unchanged]
            known = self.ledger.find(others) if self.ledger and others else {}
            news = []
            for asset in chunk:
                if asset.id in unchanged:
                    self.counts[DONE] += 1
                    self.known += 1
                    yield asset, unchanged[asset.id], DONE
                    place += 1
                    continue
                entry = known.get(asset.id)
                state, entry_now = self._state(asset, entry)
                at = place
                if entry_now is not None and self._keeps_place(entry_now):
                    at = entry_now.place
                elif entry_now is not None and entry_now.place != place:
                    entry_now = replace(entry_now, place=place)
                    self.moved = True
                if entry_now is not None and entry_now is not entry:
                    news.append(entry_now)
                self.counts[state] += 1
                self.known += entry is not None and self._is_own(entry)
                self.unseen_failures.discard(asset.id)
                yield asset, at, state
                place += 1
            if self.ledger and news:
                self.ledger.put(news)

    def _is_own(self, entry: Entry) -> bool:
        return self.places is None or entry.place in self.places

    def _keeps_place(self, entry: Entry) -> bool:
        return self.keep_places or not self._is_own(entry)

    def _unchanged(self, chunk: Sequence[Asset], place: int) -> dict[str, int]:
        """Return the places of those that are done, by a look at each file, and where they were.

        There may be a million of them; whoever needs a second look gets it from ``_state``.
        """
        found: dict[str, int] = {}
        if self.by_content:
            return found
        done = self.ledger.versions([asset.id for asset in chunk]) if self.ledger else {}
        for i, asset in enumerate(chunk):
            version = done.get(asset.id)
            if (
                version is None
                or None in version
                or not (self.keep_places or version[2] == place + i)
            ):
                continue
            with suppress(OSError, ValueError):  # an asset need not be a file
                file = asset if isinstance(asset, os.PathLike) else asset.path
                status = os.stat(file)  # noqa: PTH116 - a million times
                if (status.st_size, status.st_mtime_ns) == version[:2]:
                    found[asset.id] = version[2]
        return found

    def _state(self, asset: Asset, entry: Entry | None) -> tuple[str, Entry | None]:
        """Return the state, and the entry with what was learnt."""
        if entry is None:
            return (LATER if self.only_failed else NEW), None
        if entry.outcome == "failed":
            if entry.error != "PoisonError" or self.only_failed or self.poison_again:
                return FAILED, entry
            state, entry = _compared(asset, entry, self.by_content)
            return (POISON if state == DONE else FAILED), entry
        state, entry = _compared(asset, entry, self.by_content)
        return (LATER if self.only_failed and state == CHANGED else state), entry


def skipped_entries(source: Source | None) -> Sequence[SkippedEntry]:
    """Return what a source skipped when it was last listed."""
    return source.skipped() if isinstance(source, SkippingSource) else ()


def _compared(asset: Asset, entry: Entry, by_content: bool) -> tuple[str, Entry]:
    """Return ``done`` if the entry is of the asset's content, ``changed``, or ``gone``."""
    mtime_ns = None
    try:
        status = os.stat(asset.path)  # noqa: PTH116 - a million times
        if entry.size is not None and status.st_size != entry.size:
            return CHANGED, entry
        if entry.size is not None and status.st_mtime_ns == entry.mtime_ns and not by_content:
            return DONE, entry
        mtime_ns = trusted_mtime(status.st_mtime_ns, time.time_ns())
    except (OSError, ValueError):  # an asset need not be a file
        pass
    try:
        if asset.fingerprint() != entry.sha256:
            return CHANGED, entry
    except (OSError, PipelineError):
        return GONE, entry
    return DONE, entry if mtime_ns is None else replace(entry, mtime_ns=mtime_ns)


def trusted_mtime(mtime_ns: int | None, before_ns: int) -> int | None:
    """Return a time of change by which a later change will be seen, else ``None``.

    A file that is written to twice within the clock's grain has the same time after both, so a
    time counts only if it was some seconds past when the file was looked at, as in Git's index.

    Args:
        mtime_ns: The file's.
        before_ns: A moment before its content was read.
    """
    return mtime_ns if mtime_ns is not None and mtime_ns < before_ns - _GRAIN_NS else None
