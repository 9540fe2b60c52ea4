"""The inputs whose results an output holds, and which of them belongs to this run.

The ledger holds the inputs in order; the entries of input ``k`` have places from ``k * ROOM`` on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.errors import ConfigError, PipelineError
from pipeline.job import Job
from pipeline.protocols import Asset
from pipeline.sources.paths import Origin
from pipeline.sources.several import origins
from runners.rundir.ledger.ledger import Entry, Ledger
from runners.todo import asset_status

ROOM = 1 << 40  # places per input
_FACT = "inputs"
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Share:
    """The part of an output that belongs to this run's input.

    Attributes:
        inputs: All inputs of the output, in the order in which they were added; an input that is a
            list has several origins.
        index: Index of this run's input.
    """

    inputs: tuple[tuple[Origin, ...], ...]
    index: int = 0

    @property
    def places(self) -> range:
        """The places of the entries of this run's input."""
        return range(self.index * ROOM, (self.index + 1) * ROOM)

    def record(self, ledger: Ledger) -> None:
        """Store the inputs in the ledger, unless it has them."""
        if ledger.fact(_FACT) != self.as_json():
            ledger.set_fact(_FACT, self.as_json())
            ledger.commit()

    def as_json(self) -> list[list[dict[str, Any]]]:
        """Return the inputs as plain JSON values."""
        return [[origin.as_json() for origin in each] for each in self.inputs]

    def distinct(self, assets: Iterable[Asset], ledger: Ledger | None) -> Iterator[Asset]:
        """Yield the assets; rename those whose id belongs to a file of another input.

        ``x.jpg`` becomes ``<name>~<mark>/x.jpg``, with the name of its input and a reproducible
        mark. A file with the same content keeps the id, because its result exists already.

        Raises:
            ConfigError: The id of such an asset cannot be changed.
        """
        if ledger is None or len(self.inputs) < 2:
            yield from assets
            return
        assets = iter(assets)
        while chunk := list(islice(assets, _AT_ONCE)):
            known = ledger.find([asset.id for asset in chunk])
            for asset in chunk:
                entry = known.get(asset.id)
                if entry and entry.place not in self.places and not _is_same(asset, entry):
                    self._rename(asset)
                yield asset

    def _rename(self, asset: Asset) -> None:
        own = self.inputs[self.index]
        mark = hashlib.sha256(os.fsencode(_text(own))).hexdigest()[:8]
        name = os.path.basename(own[0].path) or "_"  # noqa: PTH119
        try:
            asset.id = f"{name}~{mark}/{asset.id}"
        except AttributeError as exc:
            raise ConfigError(
                f"'{asset.id}' is in two inputs of this output, and its source does not allow "
                "another id; choose another output"
            ) from exc


def share_of(job: Job, ledger: Ledger | None, on_change: str, *, can_extend: bool) -> Share:
    """Return the part of the output that belongs to the job's input.

    Args:
        job: The job, its input listed.
        ledger: ``None`` if the output holds no results.
        on_change: ``extend`` to add an input that is new to the output.
        can_extend: Whether the runner has that option.

    Raises:
        ConfigError: The results are of another input; names both.
    """
    own = tuple(origins(job.source)) if job.source is not None else ()
    recorded = _recorded(ledger) if ledger is not None and ledger.counts().total() else []
    for index, known in enumerate(recorded):
        if len(known) == len(own) and all(a.matches(b) for a, b in zip(known, own, strict=True)):
            if not can_extend and len(recorded) > 1:
                raise ConfigError(
                    f"{job.output} holds results of several inputs; this runner needs an output "
                    "that holds only its own"
                )
            recorded[index] = tuple(a if a.cwd else b for a, b in zip(known, own, strict=True))
            return Share(tuple(recorded), index)
    if not recorded:
        return Share((own,))
    if on_change != "extend" or not can_extend:
        extend = "runner.on_change=extend to keep them and add these, " if can_extend else ""
        raise ConfigError(
            f"{job.output} holds results of another input: it was "
            f"{' and '.join(map(_text, recorded))}, is {_text(own)}; choose another output, "
            f"{extend}or runner.on_change=restart to remove them"
        )
    before = [origin for each in recorded for origin in each]
    if shared := [str(origin) for origin in own if any(map(origin.matches, before))]:
        raise ConfigError(
            f"{job.output} already holds results of {shared[0]}, under other ids; add the other "
            "inputs without it"
        )
    return Share((*recorded, own), len(recorded))


def _recorded(ledger: Ledger) -> list[tuple[Origin, ...]]:
    return [tuple(Origin(**origin) for origin in each) for each in ledger.fact(_FACT) or []]


def _text(origins: Iterable[Origin]) -> str:
    return ", ".join(map(str, origins))


def _is_same(asset: Asset, entry: Entry) -> bool:
    if entry.outcome != "done":
        return False
    try:
        size, _ = asset_status(asset)
        return (
            None in (entry.size, size) or entry.size == size
        ) and asset.fingerprint() == entry.sha256
    except (OSError, ValueError, PipelineError):
        return False
