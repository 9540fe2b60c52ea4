"""Divides the assets of a job among several processes by a hash of their ids."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError

FOLDER = "shards"  # in the output directory
_SHARD = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")
_NAME = re.compile(r"([1-9]\d{0,5})-of-([1-9]\d{0,5})")


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One of several equal parts of a job; an asset belongs to exactly one of them.

    Attributes:
        index: Number of the shard, 1 to ``count``.
        count: Number of shards.
    """

    index: int
    count: int

    def __str__(self) -> str:
        """Return the shard as it is written on the command line."""
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """The name of its directory."""
        return f"{self.index}-of-{self.count}"

    def directory(self, output: Path) -> Path:
        """Return the run directory of the shard.

        Args:
            output: The output directory that all shards share.
        """
        return output / FOLDER / self.name

    def holds(self, asset_id: str) -> bool:
        """Return whether an asset belongs to the shard."""
        return shard_of(asset_id, self.count) == self.index


def shard_of(asset_id: str, count: int) -> int:
    """Return the number of the shard that an asset belongs to, 1 to ``count``.

    It is the first 8 bytes of the SHA-256 of the id, as a big-endian number, modulo ``count``,
    plus 1: the same on every machine, and in every version of d2run.
    """
    digest = hashlib.sha256(os.fsencode(asset_id)).digest()
    return int.from_bytes(digest[:8], "big") % count + 1


def parse_shard(given: object) -> Shard:
    """Return the shard that ``k/n`` names.

    Raises:
        ConfigError: It is something else.
    """
    match = _SHARD.fullmatch(given) if isinstance(given, str) else None
    if match is not None and int(match[1]) > int(match[2]):
        last = f"{match[2]}/{match[2]}"
        raise ConfigError(f"shard: {given} is none of the shards 1/{match[2]} to {last}")
    if match is None:
        raise ConfigError(
            f"shard: expected k/n, such as 1/8 for the first of 8 shards, got {given!r}"
        )
    return Shard(int(match[1]), int(match[2]))


def named_shard(name: str) -> Shard | None:
    """Return the shard whose directory has a name; ``None`` if it is no such name."""
    match = _NAME.fullmatch(name)
    return Shard(int(match[1]), int(match[2])) if match else None
