"""``runner=batch``: processes every input once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar, Literal

from pipeline.errors import ConfigError, OutputLockedError
from pipeline.job import Executor, Job, Report
from pipeline.protocols import Asset, LiveSource
from pipeline.system.terminal import print_stderr
from runners.batch.listing import count, record_skipped, warnings
from runners.batch.live import LiveInput, refuse_options
from runners.batch.options import BatchOptions
from runners.batch.processing import Processing
from runners.reporting.log import logged
from runners.reporting.progress import announce_loading
from runners.reporting.status import Status
from runners.reporting.summary import print_summary
from runners.reporting.tally import Tally
from runners.rundir.lock import locked
from runners.rundir.opening import open_run
from runners.rundir.owned.pruning import check_inputs
from runners.rundir.remote.current import mirrored
from runners.sharding import Listing, refuse_input
from runners.todo import AT_ONCE, Todo


@dataclass
class Batch(BatchOptions):
    """Runs the pipeline once over every input that is not done."""

    uploads: ClassVar[Literal[True]] = True
    has_workers: ClassVar[bool] = False  # which write files of their own

    def run(self, job: Job) -> Report:
        """Run the job.

        Raises:
            ConfigError: There is no input, the device does not exist, or the output holds results
                of other settings; nothing was started.
            StoreError: The weights are unavailable or do not fit the model.
            OutputLockedError: Another run has locked the output.
            OutputError: The output cannot be written, or its ledger is damaged.
        """
        if job.source is None:
            raise ConfigError(
                "no input: add input=PATH (a file, a directory, a glob, a list of paths in a .txt, "
                ".csv or .parquet file, or - for paths on standard input)"
            )
        try:
            with (
                locked(job.output),
                mirrored(job, self.checkpoint_s, has_workers=self.has_workers) as mirror,
                logged(job.output / "run.log"),
            ):
                report, device = self._locked(job, job.source)
                if mirror is not None:
                    mirror.publish()
        except OutputLockedError:
            if self.on_lock == "skip":
                return Report(0, job.output)
            raise
        if not job.config["quiet"]:
            print_summary(report, device, verbose=job.config["verbose"], shown=job.shown)
        return report

    def executor(self, job: Job) -> Executor | None:
        """Return what does the work; ``None`` for threads of this process.

        Args:
            job: Its runnable is entered if there is something to do.
        """
        return None

    def _locked(self, job: Job, source: Iterable[Asset]) -> tuple[Report, Mapping[str, Any]]:
        live = LiveInput(source) if isinstance(source, LiveSource) else None
        if live is not None:
            live_options = {"prune": self.prune, "retry_failed": self.retry_failed}
            refuse_options(self.max_failures, **live_options, shard=self.shard)
        elif self.own_shard is not None:
            refuse_input(job, source)
            job = replace(job, aggregates={})  # runner=merge builds them, over all shards
        assets: Iterable[Asset] = iter(source)  # lists once; ``count`` uses the same listing
        total = n_listed = count(source)
        listing = None
        if self.own_shard is not None:
            assets = listing = Listing(self.own_shard, assets)
            total = len(listing)
        status = Status(job.output, total)
        with open_run(job, self.on_change, status, can_extend=True) as opened:
            share, earlier = opened.share, opened.earlier
            if self.prune is True and earlier and earlier.counts(share.places)["done"]:
                check_inputs(source)
            failures = earlier.entries(with_error=True) if earlier else ()
            first_place = share.places.start
            if live is not None and earlier:  # a stream continues after what arrived before
                first_place = earlier.next_place(share.places)
            todo = Todo(
                assets if live is not None else share.distinct(assets, earlier),
                earlier,
                self.retry_failed,
                first_place=first_place,
                places=share.places,
                unseen_failures={
                    entry.id
                    for entry in failures
                    if entry.outcome == "failed" and entry.place in share.places
                },
                seen=set() if self.prune else None,
                at_once=1 if live is not None else AT_ONCE,
                numbers=listing.places if listing is not None else None,
            )
            found = iter(todo)
            first = next(found, None)
            if first is not None:
                announce_loading(job)
            started = opened.start(load_model=first is not None)
            record = started.record
            if listing is not None:
                record.more["shard"] = listing.record
            skipped = record_skipped(job)
            record.warnings += warnings(job, n_listed, skipped)
            for warning in record.warnings:
                print_stderr(f"warning: {warning}")
            if first is not None:
                found = chain([first], found)
            tally = Tally(status, {"load": started.load_s})
            ledger, places = started.ledger, share.places
            run = Processing(
                job, self, total, ledger, todo, record, tally, places, skipped, live,
                self.executor(job),
            )  # fmt: skip
            with live or nullcontext():
                return run.process(found), started.device
