"""How a run begins: what the output holds already, whether this run may go on with it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.engine import half_the_cores
from pipeline.errors import ConfigError, OutputError
from pipeline.job import Job
from pipeline.redaction import redacted
from pipeline.runnables.nvjpeg import DeviceJpeg
from pipeline.sources.decode.reading import read_image, why
from pipeline.sources.decode.workers import DecodeWorkers
from pipeline.system.descriptors import check_regular, remove, status_of
from pipeline.system.files import remove_temporaries
from runners.rundir import order as results
from runners.rundir.clearing import clear
from runners.rundir.inputs import share_of
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.ledger.ledger import Ledger, LedgerDamagedError
from runners.rundir.settings import differences


def one_of(option: str, value: str, *choices: str) -> None:
    """Raise ConfigError unless a runner's option has one of its values."""
    if value not in choices:
        raise ConfigError(f"runner.{option} is '{value}'; it must be {' or '.join(choices)}")


def open_ledger(job: Job, on_change: str, *, can_extend: bool = False) -> Ledger | None:
    """Open the ledger of the job's output, if its results are of the same settings and input.

    Args:
        job: The job, its input listed.
        on_change: ``error``, or ``restart`` to remove results that are of other settings or of
            another input, or that no ledger vouches for; or ``extend`` to add to those of another
            input.
        can_extend: Whether the runner has ``extend``.

    Returns:
        ``None`` if nothing is done yet.

    Raises:
        ConfigError: The results there are of other settings or of another input; names what
            differs.
        LedgerDamagedError: The ledger, or the predictions that it speaks of, are damaged.
    """
    path, restart = job.output / LEDGER, on_change == "restart"
    if status_of(job.output / "run.json") is None and not check_regular(path):
        return None  # whatever lies there is not a run's
    for folder in (job.output, job.output / ".hydra"):
        remove_temporaries(folder)
    try:
        if not _holds(path):
            if _holds(job.output / "predictions.jsonl"):
                there = check_regular(path)
                raise LedgerDamagedError(path, "it is empty" if there else "it is not there")
            for name in (LEDGER, f"{LEDGER}-journal"):  # of a run that died when it made them
                remove(job.output / name)
            return None
        ledger = Ledger(path)
    except LedgerDamagedError:
        if not restart:
            raise
        _clear(job)
        return None
    try:
        check_settings(job, ledger, loaded=False)
        share_of(job, ledger, on_change, can_extend=can_extend)
        results.finish_order(job.output, ledger)
    except BaseException as exc:
        ledger.__exit__()
        if restart and isinstance(exc, (ConfigError, LedgerDamagedError)):
            _clear(job)
            return None
        raise
    return ledger


def _clear(job: Job) -> None:
    try:
        clear(job.output, job.sinks, job.aggregates)
    except OSError as exc:
        where = exc.filename or job.output
        raise OutputError(f"cannot remove earlier results {where}: {why(exc)}") from exc


def check_settings(job: Job, ledger: Ledger, *, loaded: bool) -> None:
    """Refuse to go on with settings other than those of the results that are there.

    Args:
        job: The job.
        ledger: Learns the settings if it knows none, or not the device.
        loaded: Whether the runnable has been entered, so that the device is known.

    Raises:
        ConfigError: They differ; names how.
    """
    # a secret is not a setting: it is written nowhere, and may be another each day
    now = redacted(job.settings() if loaded else job.settings() | {"device": None})
    before = redacted(ledger.fact("settings"))
    if changed := differences(before or now, now):
        raise ConfigError(
            f"{job.output} holds results of other settings ({'; '.join(changed)}); choose another "
            "output, or runner.on_change=restart to do everything anew"
        )
    if before is None or (loaded and not before["device"]):
        ledger.state("settings", now)


def reader(job: Job, *, by_default: bool) -> AbstractContextManager[Any]:
    """Return what decodes files: to be entered; ``None`` where each asset does so itself.

    Args:
        job: The job, its runnable entered; its ``decode`` says where and by what.
        by_default: Whether ``auto`` means processes of their own.

    Raises:
        ConfigError: The device has no decoder.
    """
    if job.config["decode"]["jpeg"] == "nvjpeg":
        return nullcontext(partial(read_image, decode_jpeg=_nvjpeg(job)))
    isolation = job.config["decode"]["isolation"]
    return apart(job) if isolation == "process" or by_default else nullcontext()


def apart(job: Job) -> AbstractContextManager[Any]:
    """Return what decodes in processes of its own, unless the job is to have none."""
    decode = job.config["decode"]
    if decode["isolation"] == "none":
        return nullcontext()
    threads = job.config["decode_threads"] or half_the_cores()
    return DecodeWorkers(threads, memory_mb=decode["memory_mb"], timeout_s=decode["timeout_s"])


def _nvjpeg(job: Job) -> DeviceJpeg | None:
    device = str(getattr(job.runnable, "device", "none"))
    if device == "auto":  # never entered: there is no input
        return None
    if not device.startswith("cuda"):
        raise ConfigError(f"decode.jpeg=nvjpeg needs a CUDA device; this job's is {device}")
    return DeviceJpeg(device)


def _holds(path: Path) -> bool:
    status = check_regular(path)
    return status is not None and status.st_size > 0
