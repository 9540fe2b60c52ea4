"""Selects the inputs to process: compares the source's list with the ledger."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice

from pipeline.encoding import columns_digest
from pipeline.errors import PipelineError
from pipeline.protocols import (
    AnnotatedAsset,
    Asset,
    ContainedAsset,
    FetchedAsset,
    SkippedEntry,
    SkippingSource,
    Source,
    supports,
)
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.rundir.ledger.versions import versions_of

AT_ONCE = 500
_AHEAD = 64  # assets whose content is being fetched
_GRAIN_NS = 2_000_000_000  # the coarsest time stamps of a file system: FAT

NEW, CHANGED, FAILED = "new", "changed", "failed"  # to be processed
DONE, POISON, GONE, LATER = "done", "poison", "gone", "later"  # not to be processed
TO_DO = (NEW, CHANGED, FAILED)

_Chunk = Sequence[tuple[Asset, int]]


@dataclass(slots=True)
class Todo:
    """Iterates over the inputs once and yields those to be processed, with their places.

    An input is done if its content is that of the file that was decoded, and its columns (see
    ``AnnotatedAsset``) are those that were recorded. Of the content, size and modification time
    are compared first; the SHA-256 decides. Failed inputs are processed again, except those
    that killed their worker process each time. A file that can no longer be read keeps its result.

    Attributes:
        source: The inputs, in order.
        ledger: ``None`` if nothing was ever processed.
        only_failed: Process only failed inputs, including those that killed their worker.
        poison_again: Process inputs that killed their worker again.
        first_place: Place of the first input.
        keep_places: Whether inputs that the ledger knows keep their places.
        by_content: Compare only the SHA-256, not size and modification time.
        places: Places of the entries of this source; ``None`` for all. Other entries keep their
            places.
        counts: Number of inputs so far by state: ``new``, ``changed``, ``failed`` (these three are
            to be processed), ``done``, ``poison``, ``gone``, ``later``.
        known: Number of these inputs that are in the ledger as inputs of this source.
        moved: Whether the place of any known input changed.
        unseen_failures: Ids of failed inputs; each is removed when it is seen.
        seen: Receives the ids of all inputs; ``None`` if nobody needs them.
        at_once: Number of inputs that are compared together; 1 if each one must be waited for.
        numbers: Place of each input, ascending; ``None``: consecutive from ``first_place``.
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
    seen: set[str] | None = None
    at_once: int = AT_ONCE
    numbers: Iterable[int] | None = None

    @property
    def not_to_do(self) -> int:
        """The number of inputs seen so far that are not to be processed."""
        return self.counts.total() - sum(self.counts[state] for state in TO_DO)

    def __iter__(self) -> Iterator[tuple[Asset, int]]:
        """Yield each asset to be processed, and its place."""
        for chunk, unchanged in self._chunks():
            if len(unchanged) < len(chunk):  # a shortcut: most have nothing to do
                for asset, place, state in self._states(chunk, unchanged):
                    if state in TO_DO:
                        yield asset, place

    def states(self) -> Iterator[tuple[Asset, int, str]]:
        """Yield every asset, its place and its state; update the places in the ledger."""
        for chunk, unchanged in self._chunks():
            yield from self._states(chunk, unchanged)

    def _chunks(self) -> Iterator[tuple[_Chunk, dict[str, int]]]:
        """Yield the inputs, some at a time, each time with what ``_unchanged`` returns for them."""
        numbers = count(self.first_place) if self.numbers is None else self.numbers
        numbered = zip(self.source, numbers, strict=False)
        while chunk := list(islice(numbered, self.at_once)):
            if self.seen is not None:
                self.seen.update(asset.id for asset, _ in chunk)
            unchanged = self._unchanged(chunk)
            self.counts[DONE] += len(unchanged)
            self.known += len(unchanged)
            yield chunk, unchanged

    def _states(self, chunk: _Chunk, unchanged: dict[str, int]) -> Iterator[tuple[Asset, int, str]]:
        others = [asset.id for asset, _ in chunk if asset.id not in unchanged]
        known = self.ledger.find(others) if self.ledger and others else {}
        updated = []
        for asset, place in chunk:
            if (at := unchanged.get(asset.id)) is not None:
                yield asset, at, DONE
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
                updated.append(entry_now)
            self.counts[state] += 1
            self.known += entry is not None and self._is_own(entry)
            self.unseen_failures.discard(asset.id)
            yield asset, at, state
        if self.ledger and updated:
            self.ledger.put(updated)

    def _is_own(self, entry: Entry) -> bool:
        return self.places is None or entry.place in self.places

    def _keeps_place(self, entry: Entry) -> bool:
        return self.keep_places or not self._is_own(entry)

    def _unchanged(self, chunk: _Chunk) -> dict[str, int]:
        """Return the places of those that are done and have not moved, by a ``stat`` of each file.

        This is the fast path for a million inputs; ``_state`` decides about all others.
        """
        found: dict[str, int] = {}
        if self.by_content or self.ledger is None:
            return found
        places = None if self.keep_places else range(chunk[0][1], chunk[-1][1] + 1)
        done = versions_of(self.ledger, [asset.id for asset, _ in chunk], places)
        for asset, place in chunk:
            version = done.get(asset.id)
            if version is None:
                continue
            _, size, mtime_ns, at, columns = version
            if size is None or mtime_ns is None or not (self.keep_places or at == place):
                continue
            if columns != _columns(asset):
                continue
            try:
                if asset_status(asset) == (size, mtime_ns):
                    found[asset.id] = at
            except (OSError, ValueError):  # an asset need not be a file
                pass
        return found

    def _state(self, asset: Asset, entry: Entry | None) -> tuple[str, Entry | None]:
        """Return the state, and the entry updated with what was found."""
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
    """Return the entries that a source skipped when it was last listed."""
    return source.skipped() if isinstance(source, SkippingSource) else ()


def _columns(asset: Asset) -> str | None:
    return columns_digest(asset.columns) if supports(asset, AnnotatedAsset) else None


def _compared(asset: Asset, entry: Entry, by_content: bool) -> tuple[str, Entry]:
    """Return ``done`` if the entry is as the asset is now, else ``changed`` or ``gone``."""
    state, entry = _compared_content(asset, entry, by_content)
    return (CHANGED if state == DONE and entry.columns != _columns(asset) else state), entry


def _compared_content(asset: Asset, entry: Entry, by_content: bool) -> tuple[str, Entry]:
    mtime_ns = None
    try:
        size, now_ns = asset_status(asset)
        is_known = None not in (entry.size, size)
        if is_known and size != entry.size:
            return CHANGED, entry
        is_dated = None not in (entry.mtime_ns, now_ns)
        if is_known and is_dated and now_ns == entry.mtime_ns and not by_content:
            return DONE, entry
        mtime_ns = trusted_mtime(now_ns, time.time_ns())
    except (OSError, ValueError):  # an asset need not be a file
        pass
    try:
        if asset.fingerprint() != entry.sha256:
            return CHANGED, entry
    except (OSError, PipelineError):
        return GONE, entry
    return DONE, entry if mtime_ns is None else replace(entry, mtime_ns=mtime_ns)


def fetched_ahead(found: Iterable[tuple[Asset, int]]) -> Iterator[tuple[Asset, int]]:
    """Yield the assets with their places; those that are fetched start well before their turn."""
    ahead: deque[tuple[Asset, int]] = deque()
    for asset, place in found:
        ahead.append((asset, place))
        if supports(asset, FetchedAsset):
            asset.fetch_ahead()
            if len(ahead) <= _AHEAD:
                continue
        while len(ahead) > _AHEAD or (ahead and not supports(asset, FetchedAsset)):
            yield ahead.popleft()
    yield from ahead


def asset_status(asset: Asset) -> tuple[int | None, int | None]:
    """Return an asset's size in bytes and modification time in ns, without reading its content.

    Raises:
        OSError: It no longer exists, or cannot be accessed.
        ValueError: Its path contains a NUL.
    """
    if supports(asset, ContainedAsset):
        return asset.status()
    status = os.stat(asset if supports(asset, os.PathLike) else asset.path)  # noqa: PTH116
    return status.st_size, status.st_mtime_ns


def trusted_mtime(mtime_ns: int | None, before_ns: int) -> int | None:
    """Return a modification time if any later change of the file would change it, else ``None``.

    Two writes within one tick of the file system's clock leave the same time. So a time counts only
    if it was some seconds old when the file was read, as in Git's index.

    Args:
        mtime_ns: Modification time of the file.
        before_ns: A time before its content was read.
    """
    return mtime_ns if mtime_ns is not None and mtime_ns < before_ns - _GRAIN_NS else None
