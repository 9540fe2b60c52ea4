"""``runner=merge``: makes one run directory of those of all shards of a batch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.job import Job, Report
from pipeline.recorded.configuration import directory_of
from pipeline.recorded.run import RECORD
from pipeline.recorded.signing import read_private_key
from pipeline.system.descriptors import open_to_read
from pipeline.system.files import remove_temporaries, replaced
from pipeline.system.terminal import print_stderr, print_stdout
from pipeline.validation import check_choice
from runners.merge.checks import check_shards, reference_of
from runners.merge.combining import clear_outdated, combine, is_combined, state_of
from runners.merge.job import merged_job, refuse_options
from runners.merge.outputs import check_files, link_outputs, undelivered
from runners.merge.shards import ShardRun, find_shards, open_shards
from runners.reporting.log import logged
from runners.reporting.status import Status
from runners.reporting.summary import print_place
from runners.reporting.tally import totals, verdict
from runners.rundir.commit import finish, is_finished
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.lists import FAILURES, SKIPPED
from runners.rundir.lock import locked
from runners.rundir.opening import open_run
from runners.rundir.owned.aggregates import build_reports
from runners.rundir.record import Record
from runners.rundir.translation import output_errors

_OF_SHARD = ("start", "end", "exit_status", "command", "device", "totals", "warnings", "manifest")
_OF_REFERENCE = ("fingerprint", "settings", "device", "versions", "skipped")


@dataclass
class Merge:
    """Combines the shards in ``<output>/shards`` into the run directory ``output``.

    The result is byte for byte that of the same command without ``runner.shard``. The shards are
    read one entry at a time, and stay as they are.

    Attributes:
        on_change: What to do if the output holds other results: ``error``, or ``restart``, which
            removes them.
        sign: A PEM file with an Ed25519 private key, which signs ``run.json`` and
            ``manifest.sha256``.
    """

    on_change: str = "error"
    sign: str | None = None

    def __post_init__(self) -> None:
        check_choice("on_change", self.on_change, ("error", "restart"))
        self.key = None if self.sign is None else read_private_key(self.sign, "sign")

    def run(self, job: Job) -> Report:
        """Check the shards and combine them; nothing is done if that was done before.

        Raises:
            ConfigError: A shard is missing, has not finished, or does not belong to the others.
            OutputLockedError: A shard is running, or another run has locked the output.
            OutputError: The output cannot be written, or a shard is damaged.
        """
        refuse_options(job)
        find_shards(job.output)  # before anything is created
        with (
            locked(job.output),
            logged(job.output / "run.log"),
            open_shards(job.output) as runs,
        ):
            check_shards(runs)
            reference = reference_of(runs)
            with directory_of(reference.run):
                report = self._merged(merged_job(job, reference), runs, reference)
        if not job.config["quiet"]:
            counts = ", ".join(f"{n} {outcome}" for outcome, n in report.totals.items() if n)
            done = f"merged {len(runs)} shards" if report.counts else "nothing to do"
            print_stdout(f"{done}: {counts or 'no input'}")
            print_place(report.output)
        return report

    def _merged(self, job: Job, runs: Sequence[ShardRun], reference: ShardRun) -> Report:
        state, started_s = state_of(runs), time.monotonic()
        n_inputs = reference.listing["inputs"]
        check_files(job, runs)
        waiting = list(undelivered(job, runs))
        for text in waiting:
            print_stderr(f"warning: {text}")
        remove_temporaries(job.output)  # of a merge that was killed before its record was written
        clear_outdated(job, state, self.on_change)
        with open_run(job, "error", Status(job.output, n_inputs)) as opened:
            ledger = opened.earlier
            is_made = ledger is not None and is_combined(ledger, state)
            if ledger is not None and is_made and _is_complete(job, ledger):
                return _report(job, ledger)
            if not job.config["quiet"]:
                print_stderr(f"merging {n_inputs} inputs of {len(runs)} shards")
            started = opened.start(load_model=False)
            ledger, record = started.ledger, started.record
            _describe(record, runs, reference)
            record.warnings += waiting
            record.start()
            if not is_made:
                with output_errors(job.output):
                    link_outputs(job, runs)
                combine(job, ledger, runs, state, reference.ledger.fact("settings"))
            finish(job, ledger)
            _copy_skipped(job, reference)
            report = _report(job, ledger, reference.record["skipped"], time.monotonic() - started_s)
            record.complete(report, self.key)
            build_reports(job, ledger)
        return report


def _describe(record: Record, runs: Sequence[ShardRun], reference: ShardRun) -> None:
    """Add what the shards recorded: this process loads no model."""
    record.more |= {key: reference.record[key] for key in _OF_REFERENCE}
    record.more["shards"] = [
        {"shard": str(run.shard)} | {key: run.record.get(key) for key in _OF_SHARD} for run in runs
    ]
    texts = (text for run in runs for text in run.record.get("warnings") or ())
    record.warnings += dict.fromkeys(texts)


def _copy_skipped(job: Job, reference: ShardRun) -> None:
    with (
        output_errors(job.output),
        open_to_read(reference.path / SKIPPED) as source,
        replaced(job.output / SKIPPED) as target,
    ):
        while block := source.read(1 << 20):
            target.write(block)


def _report(
    job: Job, ledger: Ledger, skipped: Mapping[str, int] | None = None, wall_s: float = 0.0
) -> Report:
    """Return the report; without ``skipped``, that of a merge with nothing to do."""
    counts = ledger.counts()
    places = range(1 << 62)
    status, message = verdict(
        counts["failed"], ledger.n_partial(places), counts.total(), job.output / FAILURES
    )
    return Report(
        status,
        job.output,
        counts={} if skipped is None else totals(counts),
        totals=totals(counts),
        skipped=skipped or {},
        wall_s=wall_s,
        message=message,
    )


def _is_complete(job: Job, ledger: Ledger) -> bool:
    """Return whether the lists, the aggregates and the record are those of a finished run."""
    if not is_finished(job, ledger):
        return False
    try:
        with open_to_read(job.output / RECORD) as file:
            record: Any = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(record, Mapping) and record.get("state") == "ended"
