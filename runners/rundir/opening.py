"""Opens the output directory of a run: what it holds, and whether this run may add to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.encoding import NAME as PREDICTIONS
from pipeline.errors import ConfigError, LedgerDamagedError, OutputError
from pipeline.job import Job
from pipeline.protocols import DescribedRunnable, Warns
from pipeline.redaction import redacted
from pipeline.system.descriptors import check_regular, remove
from pipeline.system.files import remove_temporaries
from pipeline.system.os_errors import describe_os_error
from runners.rundir import input_order
from runners.rundir.inputs import Share, share_of
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Ledger
from runners.rundir.owned.clearing import clear
from runners.rundir.owned.names import (
    Outputs,
    has_run,
    record_outputs,
    recorded_outputs,
    refuse_foreign,
)
from runners.rundir.record import Record, killed_run
from runners.rundir.remote.current import mirror_of
from runners.rundir.settings import differences
from runners.rundir.translation import output_errors


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run that may write to its output.

    Attributes:
        ledger: Open; knows the run's settings and input.
        record: Not started yet, so that warnings can be added.
        load_s: Seconds that it took to load the model.
        device: The runnable's description of its device.
    """

    ledger: Ledger
    record: Record
    load_s: float
    device: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OpenRun:
    """An open output directory, before the model is loaded.

    Attributes:
        job: The job.
        earlier: The ledger of the earlier runs; ``None`` if there is none.
        share: The part of the output that belongs to the job's input.
    """

    job: Job
    earlier: Ledger | None
    share: Share
    _killed: dict[str, Any] | None
    _stack: ExitStack

    def start(self, *, load_model: bool) -> StartedRun:
        """Load the model, create the ledger if there is none, and record settings and input.

        Args:
            load_model: False if there is nothing to process.

        Raises:
            ConfigError: The device does not exist, or results in the output were made on another.
            StoreError: The weights are unavailable or do not fit.
            OutputError: The ledger cannot be created.
        """
        job, started_s = self.job, time.monotonic()
        device: Mapping[str, Any] = {"device": job.config["device"]}
        if load_model:
            self._stack.enter_context(job.runnable)
            if isinstance(job.runnable, DescribedRunnable):
                device = job.runnable.describe()
        load_s = time.monotonic() - started_s
        ledger = self.earlier
        if ledger is None:  # not before: a run that cannot start leaves nothing behind
            with output_errors(job.output):
                ledger = self._stack.enter_context(Ledger(job.output / LEDGER))
        check_settings(job, ledger, loaded=load_model)
        self.share.record(ledger)
        outputs = record_outputs(job, ledger)
        parts: tuple[object, ...] = (job.model, job.runnable, job.source)
        warnings = [text for part in parts if isinstance(part, Warns) for text in part.warnings]
        inputs = self.share.as_json()
        record = Record(job, ledger, device, warnings, inputs, outputs, self._killed)
        return StartedRun(ledger, record, load_s, device)


@contextmanager
def open_run(
    job: Job, on_change: str, status: AbstractContextManager[Any], *, can_extend: bool = False
) -> Iterator[OpenRun]:
    """Open the output of a job while the block runs; its lock is held, its input is listed.

    Args:
        job: The job. Its runnable is left with the block if it was loaded.
        on_change: See ``open_ledger``.
        status: Entered as soon as the output is known to be of the same settings and input.
        can_extend: See ``open_ledger``.

    Raises:
        ConfigError: The results in the output are of other settings or of another input.
        LedgerDamagedError: The ledger, or the predictions that it lists, are damaged.
    """
    with ExitStack() as stack:
        ledger = open_ledger(job, on_change, can_extend=can_extend)
        if ledger is not None:
            stack.enter_context(ledger)
        share = share_of(job, ledger, on_change, can_extend=can_extend)
        killed = killed_run(job.output, ledger)  # before status.json is replaced
        stack.enter_context(status)
        yield OpenRun(job, ledger, share, killed, stack)


def open_ledger(job: Job, on_change: str, *, can_extend: bool = False) -> Ledger | None:
    """Open the ledger of the job's output if its results are of the same settings and input.

    Args:
        job: The job, its input listed.
        on_change: ``error``; ``restart`` to remove results that are of other settings or of
            another input, or whose ledger is damaged; ``extend`` to add to those of another input.
        can_extend: Whether the runner has ``extend``.

    Returns:
        ``None`` if there are no results.

    Raises:
        ConfigError: The results are of other settings or of another input; names what differs.
        LedgerDamagedError: The ledger, or the predictions that it lists, are damaged.
    """
    if not has_run(job.output):
        refuse_foreign(job, {})
        return None
    for folder in (job.output, job.output / ".hydra"):
        remove_temporaries(folder)
    recorded = recorded_outputs(job.output, None)
    with ExitStack() as stack:
        try:
            ledger = _existing_ledger(job.output)
            if ledger is not None:
                stack.enter_context(ledger)
                recorded = recorded_outputs(job.output, ledger)
                check_settings(job, ledger, loaded=False)
                share_of(job, ledger, on_change, can_extend=can_extend)
                input_order.finish_order(job.output, ledger)
        except (ConfigError, LedgerDamagedError):
            if on_change != "restart":
                raise
            stack.close()
            refuse_foreign(job, recorded)
            _clear(job, recorded)
            return None
        refuse_foreign(job, recorded)
        stack.pop_all()
        return ledger


def _existing_ledger(output: Path) -> Ledger | None:
    path = output / LEDGER
    if _holds(path):
        return Ledger(path)
    if _holds(output / PREDICTIONS):
        raise LedgerDamagedError(path, "it is empty" if check_regular(path) else "it is missing")
    for name in (LEDGER, f"{LEDGER}-journal"):  # of a run killed while creating them
        remove(output / name)
    return None


def _clear(job: Job, recorded: Outputs) -> None:
    if (mirror := mirror_of(job.output)) is not None:
        mirror.forget()
    try:
        clear(job.output, job.sinks, recorded)
    except OSError as exc:
        where = exc.filename or job.output
        raise OutputError(
            f"cannot remove earlier results {where}: {describe_os_error(exc)}"
        ) from exc


def check_settings(job: Job, ledger: Ledger, *, loaded: bool) -> None:
    """Refuse to resume results that were made with other settings.

    Args:
        job: The job.
        ledger: Receives the settings if it has none, or none of the device.
        loaded: Whether the runnable has been entered, so that the device is known.

    Raises:
        ConfigError: The settings differ; names how.
    """
    # secrets are not settings: they are never written, and may change every day
    now = redacted(job.settings() if loaded else job.settings() | {"device": None})
    before = redacted(ledger.fact("settings"))
    if changed := differences(before or now, now):
        has_option = hasattr(job.runner, "on_change")
        restart = ", or runner.on_change=restart to start from scratch" if has_option else ""
        raise ConfigError(
            f"{job.output} holds results of other settings ({'; '.join(changed)}); choose another "
            f"output{restart}"
        )
    if before is None or (loaded and not before["device"]):
        ledger.set_fact("settings", now)


def _holds(path: Path) -> bool:
    status = check_regular(path)
    return status is not None and status.st_size > 0
