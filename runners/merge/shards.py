"""The run directories of shards: found, locked, and read in order."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.errors import ConfigError, OutputError
from pipeline.recorded.manifest import NAME as MANIFEST
from pipeline.recorded.manifest import read_manifest
from pipeline.recorded.run import RECORD, RecordedRun
from pipeline.sharding import FOLDER, Shard, named_shard
from pipeline.system.descriptors import names_in, open_to_read, status_of
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.rundir.lock import locked
from runners.rundir.owned.names import LISTS

_PAGE, _CACHE_KB = 32768, 256 << 10  # of all shards together
_FILES = 4  # that are open per shard: lock, directory, ledger, predictions
_SHOWN = 5


class ShardRun:
    """The finished run directory of a shard, locked.

    Attributes:
        shard: The shard that its directory is named after.
        path: The directory.
        run: Its record.

    Args:
        shard: The shard.
        path: Its directory.
        count: Number of shards that are open together, which share the memory.

    Raises:
        ConfigError: It has no record.
    """

    def __init__(self, shard: Shard, path: Path, count: int) -> None:
        self.shard, self.path, self._count = shard, path, count
        self.run = RecordedRun(path)
        self._open = ExitStack()
        self._file: BinaryIO | None = None
        self._digest, self._size = hashlib.sha256(), 0

    def __str__(self) -> str:
        """Return the shard as messages name it."""
        return f"shard {self.shard} ({self.path})"

    def __enter__(self) -> ShardRun:
        """Return the run; its ledger is opened when it is needed."""
        return self

    def __exit__(self, *exc_info: Any) -> None:
        """Close its files."""
        self._open.close()

    @property
    def record(self) -> Mapping[str, Any]:
        """The content of its ``run.json``."""
        return self.run.record

    @property
    def listing(self) -> Mapping[str, Any]:
        """What it recorded about the inputs; empty if it did not run as a shard."""
        found = self.record.get("shard")
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def ledger(self) -> Ledger:
        """Its ledger, open.

        Raises:
            LedgerDamagedError: It cannot be trusted.
            OutputError: There is none.
        """
        if status_of(self.path / LEDGER) is None:
            raise OutputError(f"{self} has no {LEDGER}; run it again with runner=repair")
        ledger = self._open.enter_context(Ledger(self.path / LEDGER))
        ledger.execute(f"PRAGMA cache_size = -{max(256, _CACHE_KB // self._count)}")
        return ledger

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """The SHA-256 of its lists and of files that sinks write once per run, by name.

        Raises:
            OutputError: The manifest is damaged, or is not that of the run.
        """
        manifest = read_manifest(self.path)
        recorded = self.record.get("manifest")
        if not isinstance(recorded, Mapping) or recorded.get("sha256") != manifest.sha256:
            raise OutputError(f"{self}: {MANIFEST} is not that of {RECORD}; run the shard again")
        written = [name for names in self.record["outputs"].values() for name in names]
        return {k: manifest.digests[k] for k in (*LISTS, *written) if k in manifest.digests}

    def entries(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Yield its entries by place, each with its lines, which must be read at once.

        Raises:
            OutputError: At the end, if ``predictions.jsonl`` is not as the run left it.
        """
        for entry in self.ledger.entries(page=max(64, _PAGE // self._count)):
            yield entry, self._lines(entry)
        if self._digest.hexdigest() != self.digests.get(PREDICTIONS):
            raise self._modified()

    def _lines(self, entry: Entry) -> Iterator[bytes]:
        if entry.start is None:
            return
        if self._file is None:
            self._file = self._open.enter_context(open_to_read(self.path / PREDICTIONS))
        if entry.start != self._size:  # a finished run has its lines in order
            raise self._modified()
        left = entry.length
        while left > 0 and (line := self._file.readline(left)):
            left -= len(line)
            self._size += len(line)
            self._digest.update(line)
            yield line

    def _modified(self) -> OutputError:
        return OutputError(
            f"{self}: {PREDICTIONS} was modified by another program; run the shard with "
            "runner=repair, then again without"
        )


@contextmanager
def open_shards(output: Path) -> Iterator[list[ShardRun]]:
    """Lock the run directories of all shards while the block runs, and give them in order.

    Raises:
        ConfigError: There are none, one is missing, or was never started.
        OutputLockedError: One is running.
    """
    found = find_shards(output)
    _allow_files(_FILES * len(found))
    with ExitStack() as stack:
        runs = []
        for shard in found:
            path = shard.directory(output)
            if status_of(path / RECORD) is None:
                raise ConfigError(
                    f"shard {shard} has not finished: {path} has no {RECORD}; run it with "
                    f"runner.shard={shard}"
                )
            stack.enter_context(locked(path))
            runs.append(stack.enter_context(ShardRun(shard, path, len(found))))
        yield runs


def find_shards(output: Path) -> Sequence[Shard]:
    """Return the shards whose directories are in an output, in order.

    Raises:
        ConfigError: There are none, they are of different numbers of shards, or one is missing.
    """
    folder = output / FOLDER
    found = sorted(filter(None, map(named_shard, names_in(folder))))
    if not found:
        raise ConfigError(
            f"there is nothing to merge in {folder}; run each shard with runner.shard=k/n, and "
            "give the merge the output=DIR of the shards"
        )
    if others := [shard for shard in found if shard.count != found[0].count]:
        raise ConfigError(
            f"{folder} holds shards of different divisions, {found[0].name} and {others[0].name}, "
            "which overlap; remove those of one division"
        )
    count = found[0].count
    present = {shard.index for shard in found}
    if missing := [str(Shard(i, count)) for i in range(1, count + 1) if i not in present]:
        names = ", ".join(missing[:_SHOWN]) + (", ..." if missing[_SHOWN:] else "")
        raise ConfigError(
            f"shards are missing in {folder}: {names}; run each, such as runner.shard={missing[0]}"
        )
    return found


def _allow_files(number: int) -> None:
    """Raise the limit of open files as far as needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + 512
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
