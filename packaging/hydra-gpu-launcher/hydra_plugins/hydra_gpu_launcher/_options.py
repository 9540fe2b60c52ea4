"""The options ``hydra.launcher.*``, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra_plugins.hydra_gpu_launcher._errors import LauncherError

_AUTO = "auto"


@dataclass(frozen=True)
class Options:
    """The options of a sweep. README.md describes them.

    Attributes:
        devices: GPUs by number or UUID; ``None`` for all visible ones.
        jobs_per_device: Jobs that share a GPU.
        min_free_mb: Free memory in MiB that a GPU needs before a job starts on it; 0: any.
        start_interval_s: Seconds between two starts.
        retries: Further attempts for a job that fails.
        stop_on_failure: Whether no job is started after one has failed.
        slots: Jobs at a time without a GPU; ``None`` to use GPUs.
        skip_finished: Whether jobs that an earlier sweep finished are skipped.
        stop_timeout_s: Seconds that jobs have to end after a signal, before they are killed.
    """

    devices: tuple[int | str, ...] | None
    jobs_per_device: int
    min_free_mb: int
    start_interval_s: float
    retries: int
    stop_on_failure: bool
    slots: int | None
    skip_finished: bool
    stop_timeout_s: float


def read_options(
    *,
    devices: Any,
    jobs_per_device: Any,
    min_free_mb: Any,
    start_interval_s: Any,
    retries: Any,
    on_failure: Any,
    slots: Any,
    skip_finished: Any,
    stop_timeout_s: Any,
) -> Options:
    """Check the values of the options.

    Raises:
        LauncherError: A value is wrong, or two options contradict each other.
    """
    if on_failure not in ("continue", "stop"):
        raise _wrong("on_failure", on_failure, "continue or stop")
    if not isinstance(skip_finished, bool):
        raise _wrong("skip_finished", skip_finished, "true or false")
    options = Options(
        devices=_devices(devices),
        jobs_per_device=_whole("jobs_per_device", jobs_per_device, 1),
        min_free_mb=_whole("min_free_mb", min_free_mb, 0),
        start_interval_s=_seconds("start_interval_s", start_interval_s),
        retries=_whole("retries", retries, 0),
        stop_on_failure=on_failure == "stop",
        slots=None if slots is None else _whole("slots", slots, 1),
        skip_finished=skip_finished,
        stop_timeout_s=_seconds("stop_timeout_s", stop_timeout_s),
    )
    if options.slots is not None:
        for name, is_set in (
            ("devices", options.devices is not None),
            ("jobs_per_device", options.jobs_per_device > 1),
            ("min_free_mb", options.min_free_mb > 0),
        ):
            if is_set:
                raise LauncherError(
                    f"hydra.launcher.slots={slots} runs jobs without a GPU; remove it or "
                    f"hydra.launcher.{name}"
                )
    return options


def _devices(value: Any) -> tuple[int | str, ...] | None:
    if value == _AUTO:
        return None
    expected = "auto, or a list of GPU numbers and UUIDs such as [0,1]"
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    items = list(value) if is_list else [value]
    devices: list[int | str] = []
    for item in items:
        if isinstance(item, str) and item.isdecimal():
            item = int(item)
        is_number = isinstance(item, int) and not isinstance(item, bool) and item >= 0
        if not is_number and not (isinstance(item, str) and item.startswith(("GPU-", "MIG-"))):
            raise _wrong("devices", value, expected)
        if item in devices:
            raise LauncherError(
                f"hydra.launcher.devices={_shown(value)}: {item} is repeated; to run several jobs "
                "on a GPU, set hydra.launcher.jobs_per_device"
            )
        devices.append(item)
    if not devices:
        raise _wrong("devices", value, expected)
    return tuple(devices)


def _whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _wrong(name, value, f"a whole number of at least {least}")
    return value


def _seconds(name: str, value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise _wrong(name, value, "a number of seconds of at least 0")
    return float(value)


def _wrong(name: str, value: Any, expected: str) -> LauncherError:
    return LauncherError(f"hydra.launcher.{name}={_shown(value)}: expected {expected}")


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_shown, value))}]"
    return str(value)
