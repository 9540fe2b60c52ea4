"""A shard of a job: which of the listed inputs are its own, and which options apply."""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.encoding import columns_digest
from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.protocols import AnnotatedAsset, Asset, NumberedAsset, Source, supports
from pipeline.sharding import Shard
from pipeline.sources.paths import real_path
from pipeline.sources.several import origins


class Listing:
    """The inputs of a shard, with their places among all inputs.

    Lists the input to its end, but keeps only the shard's own assets.

    Attributes:
        shard: The shard.
        places: Places of its assets, ascending.
        record: What ``runner=merge`` compares: the shard, the number of all inputs and of its own,
            and a digest of all of them in order.

    Args:
        shard: The shard.
        assets: All assets.
    """

    def __init__(self, shard: Shard, assets: Iterable[Asset]) -> None:
        self.shard = shard
        self.places = array("q")
        self._own: deque[Asset] = deque()
        digest, total = hashlib.sha256(), 0
        for asset in assets:
            if shard.holds(asset.id):
                self.places.append(total)
                self._own.append(asset)
            image_id = asset.image_id if supports(asset, NumberedAsset) else None
            columns = columns_digest(asset.columns) if supports(asset, AnnotatedAsset) else None
            line = repr((asset.id, image_id, columns))
            digest.update(line.encode(errors="surrogateescape"))
            total += 1
        self.record: dict[str, Any] = {
            "index": shard.index,
            "count": shard.count,
            "inputs": total,
            "own": len(self.places),
            "sha256": digest.hexdigest(),
        }

    def __iter__(self) -> Iterator[Asset]:
        """Yield the shard's assets once; each is forgotten, because it may hold its content."""
        while self._own:
            yield self._own.popleft()

    def __len__(self) -> int:
        """Return the number of the shard's assets."""
        return len(self.places)


def refuse_input(job: Job, source: Source) -> None:
    """Raise ConfigError for an input that several shards cannot list.

    Args:
        job: The job of a shard.
        source: Its source, which is no stream.
    """
    output = Path(real_path(job.output)).parents[1]  # without shards/k-of-n
    for origin in origins(source):
        if origin.path == "-":
            raise ConfigError(
                "runner.shard: each shard lists all inputs, and standard input is read only once; "
                "write its paths to a .txt file"
            )
        if job.config["input"] is not None and output.is_relative_to(origin.path):
            raise ConfigError(
                f"runner.shard: the output is in the input {origin.path}, so the shards would list "
                "one another; choose another output"
            )
