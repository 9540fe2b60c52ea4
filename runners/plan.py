"""``runner=plan``: prints what a batch would process or skip, and why; loads no weights."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

from pipeline.errors import ConfigError, PipelineError
from pipeline.job import Job, Report
from pipeline.protocols import Asset, LiveSource, VersionedAsset, Warns, supports
from pipeline.sharding import parse_shard
from pipeline.system.files import output_name
from pipeline.system.os_errors import describe_os_error
from pipeline.system.terminal import print_stderr
from runners.reporting.console import print_table
from runners.rundir.inputs import share_of
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.lock import locked
from runners.rundir.opening import check_settings
from runners.rundir.owned.names import LISTS, recorded_outputs, refuse_foreign
from runners.rundir.record import killed_run
from runners.sharding import Listing, refuse_input
from runners.todo import (
    CHANGED,
    DONE,
    FAILED,
    GONE,
    NEW,
    POISON,
    TO_DO,
    Todo,
    asset_status,
    skipped_entries,
)

_SHOWN = 20
_WHY = {
    NEW: "new",
    CHANGED: "changed since it was processed",
    FAILED: "failed before",
    DONE: "already done",
    POISON: "killed its worker each time; runner.retry_failed=true tries it again",
    GONE: "done; the file can no longer be read, its result is kept",
}
Reasons = list[tuple[str, str]]  # asset id or path, reason


@dataclass
class Plan:
    """Lists the input as a batch with the same output would see it.

    Attributes:
        shard: ``k/n``: as that shard of a batch would see it; ``None``: all inputs.
    """

    shard: str | None = None

    def __post_init__(self) -> None:
        self.own_shard = None if self.shard is None else parse_shard(self.shard)

    def run(self, job: Job) -> Report:
        """Print the plan on standard output.

        Raises:
            ConfigError: There is no input, or the output holds files that no run wrote.

        Returns:
            The report; with the error and the exit status of the batch if it would be refused.
        """
        if job.source is None:
            raise ConfigError("no input to plan for: add input=PATH")
        if isinstance(job.source, LiveSource):
            raise ConfigError("input: a stream cannot be planned, because it is not a list")
        with ExitStack() as stack:
            ledger, warnings, refused = _ledger(job, stack)
            refuse_foreign(job, recorded_outputs(job.output, ledger))
            survey = _Survey()
            assets: Iterable[Asset] = iter(job.source)
            listing = None
            if self.own_shard is not None:
                refuse_input(job, job.source)
                assets = listing = Listing(self.own_shard, assets)
            share = share_of(job, ledger, "extend", can_extend=True)
            todo = Todo(
                share.distinct(assets, ledger),
                ledger,
                first_place=share.places.start,
                places=share.places,
                numbers=listing.places if listing is not None else None,
            )
            for asset, _, state in todo.states():
                survey.add(asset, state)
            if ledger is not None:
                survey.add_removed(ledger, share.places)
        skipped = [(entry.path, entry.reason) for entry in skipped_entries(job.source)]
        survey.show(skipped, with_reasons=ledger is not None)
        print_table("Settings", ("setting", "value"), list(_settings(job)))
        if isinstance(job.model, Warns):
            warnings += job.model.warnings
        for warning in warnings:
            print_stderr(f"warning: {warning}")
        counts = {"planned": survey.kinds.total(), "skipped": len(skipped)}
        if refused is None:
            return Report(exit_status=0, counts=counts)
        message = f"the run would be refused: {refused}"
        return Report(exit_status=refused.exit_status, counts=counts, message=message)


@dataclass
class _Survey:
    """The inputs, grouped by what a batch would do with them.

    Attributes:
        kinds: Number of inputs to process, by suffix.
        sizes: Total size of the inputs to process in bytes, by suffix.
        to_do: The inputs to process, each with the reason.
        not_done: The inputs to skip, each with the reason.
        ids: The ids of all inputs that the source lists.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    to_do: Reasons = field(default_factory=list)
    not_done: Reasons = field(default_factory=list)
    ids: dict[str, None] = field(default_factory=dict)

    def add(self, asset: Asset, state: str) -> None:
        """Add an input of the source."""
        self.ids[asset.id] = None
        if state not in TO_DO:
            self.not_done.append((asset.id, _WHY[state]))
            return
        size = asset.size_bytes if supports(asset, VersionedAsset) else None
        try:
            if size is None:
                size, _ = asset_status(asset)
        except (OSError, ValueError) as exc:
            self.not_done.append((asset.id, f"would fail: {describe_os_error(exc)}"))
            return
        if size == 0:
            self.not_done.append((asset.id, "would fail: empty file"))
            return
        self.to_do.append((asset.id, _WHY[state]))
        kind = os.path.splitext(asset.id)[1].lower() or "(no extension)"  # noqa: PTH122
        self.kinds[kind] += 1
        self.sizes[kind] += size or 0

    def add_removed(self, ledger: Ledger, places: range) -> None:
        """Add the inputs with results that the source no longer lists."""
        for entry in ledger.entries():
            if entry.outcome == "done" and entry.place in places and entry.id not in self.ids:
                self.not_done.append((entry.id, "no longer in the input; its result is kept"))

    def show(self, skipped: Reasons, *, with_reasons: bool) -> None:
        """Print the tables.

        Args:
            skipped: The files that the source skipped, each with the reason.
            with_reasons: Whether to print the reasons for processing inputs.
        """
        rows: list[tuple[object, ...]] = [
            (kind, n, round(self.sizes[kind] / 1e6, 2)) for kind, n in self.kinds.most_common()
        ]
        rows.append(("all", self.kinds.total(), round(self.sizes.total() / 1e6, 2)))
        print_table("To do", ("kind", "inputs", "MB"), rows)
        columns = ("reason", "count", "for example")
        if with_reasons and self.to_do:
            print_table("Reasons", columns, _by_reason(self.to_do))
        if others := skipped + self.not_done:
            print_table("Skipped", columns, _by_reason(others))
        if collisions := list(name_collisions(self.ids)):
            shown = [(names,) for names in collisions[:_SHOWN]]
            print_table("Colliding names", (f"{len(collisions)} colliding outputs",), shown)


def _ledger(job: Job, stack: ExitStack) -> tuple[Ledger | None, list[str], PipelineError | None]:
    """Open the ledger of the output, without changing it.

    Returns:
        The ledger, ``None`` if there are no usable earlier results; warnings; and why a run would
        be refused, ``None`` if it would not.
    """
    if not os.path.lexists(job.output / LEDGER):
        return None, [], None
    try:
        stack.enter_context(locked(job.output))
        ledger = stack.enter_context(Ledger(job.output / LEDGER))
        check_settings(job, ledger, loaded=False)
        share_of(job, ledger, "error", can_extend=True)
    except PipelineError as exc:
        return None, [], exc
    killed = killed_run(job.output, ledger)
    if killed is None:
        return ledger, [], None
    return ledger, [f"the run of {killed['start']} was killed; {_counts(killed)}"], None


def name_collisions(ids: Iterable[str]) -> Iterator[str]:
    """Yield groups of inputs whose output paths collide with each other or with a directory.

    Case and Unicode normalization are ignored, as in some file systems (exFAT, SMB, APFS).
    """
    files: dict[str, list[str]] = defaultdict(list)
    folders: dict[str, str] = {}
    for asset_id in ids:
        name = normalize("NFD", output_name(asset_id, "").casefold())
        files[name].append(asset_id)
        folder = name.rpartition("/")[0]
        while folder and folder not in folders:  # or else those above it are known, too
            folders[folder] = asset_id
            folder = folder.rpartition("/")[0]
    for name, sharing in files.items():
        if len(sharing) > 1:
            yield ", ".join(sharing)
        for suffix in (".jpg", ".png"):
            if name + suffix in folders:
                yield f"{sharing[0]}, {folders[name + suffix]}"


def _counts(killed: dict[str, Any]) -> str:
    counts = ", ".join(f"{n} {outcome}" for outcome, n in killed["counts"].items() if n)
    kept = ", ".join(f"{n} {outcome}" for outcome, n in killed["kept"].items() if n)
    return f"it last reported {counts or 'nothing'}, and the output holds {kept or 'no result'}"


def _by_reason(entries: Reasons) -> list[tuple[object, ...]]:
    example = {reason: path for path, reason in reversed(entries)}
    reasons = Counter(reason for _, reason in entries)
    return [(reason, n, example[reason]) for reason, n in reasons.most_common()]


def _settings(job: Job) -> Iterator[tuple[object, ...]]:
    model = job.model.identity()
    yield "model", model.get("tag") or model.get("name")
    yield "device", job.config["device"]
    yield "stages", " -> ".join(job.stages) or "none"
    yield "sinks", ", ".join(job.config["sink"]) or "none"
    yield "output", job.output
    yield "may write", ", ".join(dict.fromkeys((*LISTS, *job.outputs())))
