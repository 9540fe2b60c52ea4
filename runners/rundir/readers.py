"""Chooses how a run reads and decodes files: in this process or in worker processes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from pipeline.engine import default_decode_threads
from pipeline.errors import ConfigError
from pipeline.job import Job
from pipeline.protocols import PlacedRunnable
from pipeline.runnables.nvjpeg import DeviceJpeg
from pipeline.sources.decode.reading import read_image
from pipeline.sources.decode.workers import DecodeWorkers


def file_reader(job: Job, *, isolate_by_default: bool) -> AbstractContextManager[Any]:
    """Return the reader of all files; entering gives ``None`` if each asset reads its own file.

    Args:
        job: The job, its runnable entered; its ``decode`` options select the reader.
        isolate_by_default: Whether ``decode.isolation=auto`` means worker processes.

    Raises:
        ConfigError: The device has no JPEG decoder.
    """
    if job.config["decode"]["jpeg"] == "nvjpeg":
        return nullcontext(partial(read_image, decode_jpeg=_nvjpeg(job)))
    isolation = job.config["decode"]["isolation"]
    return isolated_reader(job) if isolation == "process" or isolate_by_default else nullcontext()


def isolated_reader(job: Job) -> AbstractContextManager[Any]:
    """Return a reader in worker processes; ``None`` on entering with ``decode.isolation=none``."""
    decode = job.config["decode"]
    if decode["isolation"] == "none":
        return nullcontext()
    threads = job.config["decode_threads"] or default_decode_threads()
    return DecodeWorkers(threads, memory_mb=decode["memory_mb"], timeout_s=decode["timeout_s"])


def _nvjpeg(job: Job) -> DeviceJpeg | None:
    device = job.runnable.device if isinstance(job.runnable, PlacedRunnable) else "none"
    if device == "auto":  # not entered, because there is no input
        return None
    if not device.startswith("cuda"):
        raise ConfigError(f"decode.jpeg=nvjpeg needs a CUDA device; this job runs on {device}")
    return DeviceJpeg(device)
