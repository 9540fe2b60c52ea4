"""Chooses the images that a report shows."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple

Key = tuple[str, int]  # id of the asset, index of the frame


class Candidate(NamedTuple):
    """A frame that may be shown.

    Attributes:
        order: Its random number.
        position: Number of its line in ``predictions.jsonl``, from 0.
        key: Its asset and index.
    """

    order: str
    position: int
    key: Key


class Sample:
    """A random sample with as many frames of each stratum as possible.

    A stratum is the class and the score, in steps of 0.2, of a frame's least certain detection.
    Memory grows with the size of the sample and the number of strata, not with that of the run.

    Args:
        size: Number of frames; ``None`` for all.
        seed: Seed of the random numbers.
        first: Frames that are in the sample in any case, the first of it.
    """

    def __init__(self, size: int | None, seed: int, first: Iterable[Key] = ()) -> None:
        self._size = size
        self._seed = seed
        self._first = {key: rank for rank, key in enumerate(first)}
        self._found: dict[int, Candidate] = {}  # those of them that were offered, by rank
        self._strata: dict[tuple[str, int], list[tuple[int, Candidate]]] = {}

    def add(self, key: Key, position: int, record: dict[str, Any]) -> None:
        """Offer a frame.

        Args:
            key: Its asset and index.
            position: Number of its line, from 0.
            record: Its line.
        """
        if key in self._first:
            self._found[self._first[key]] = Candidate("", position, key)
            return
        name = f"{self._seed}\0{key[0]}\0{key[1]}".encode(errors="surrogateescape")
        order = sha256(name).hexdigest()
        kept = self._strata.setdefault(_stratum(record), [])
        item = (-int(order, 16), Candidate(order, position, key))  # the largest one leaves first
        if self._size is None or len(kept) < self._size:
            heapq.heappush(kept, item)
        elif kept:
            heapq.heappushpop(kept, item)

    def chosen(self) -> dict[int, int]:
        """Return the rank of each chosen frame in the sample, by position; the best rank is 0."""
        ordered = [sorted(c for _, c in self._strata[name]) for name in sorted(self._strata)]
        turns = (each for turn in zip_longest(*ordered) for each in turn if each is not None)
        first = [self._found[rank] for rank in sorted(self._found)]
        size = None if self._size is None else max(self._size, len(first))
        ranked = islice(chain(first, turns), size)
        return {each.position: rank for rank, each in enumerate(ranked)}

    def by_asset(self) -> dict[str, list[int]]:
        """Return the indices of the chosen frames of each asset, ascending."""
        found: dict[str, list[int]] = {}
        for asset_id, index in sorted(self._keys()):
            found.setdefault(asset_id, []).append(index)
        return found

    def _keys(self) -> Iterator[Key]:
        chosen = self.chosen()
        yield from (each.key for each in self._found.values())
        for kept in self._strata.values():
            yield from (each.key for _, each in kept if each.position in chosen)


def _stratum(record: dict[str, Any]) -> tuple[str, int]:
    scored = [each for each in record["instances"] if each["score"] is not None]
    if not scored:
        return "", 0
    least = min(scored, key=lambda each: each["score"])
    return least["class_name"], min(int(5 * least["score"]), 4)
