"""What the process of a job runs. Only this process imports it."""

from __future__ import annotations

import atexit
import io
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals


def main(payload: int, result: int, lifeline: int) -> None:
    """Run a job and write its result.

    Args:
        payload: Descriptor of a file with the job.
        result: Descriptor of an empty file for the result.
        lifeline: Descriptor of a pipe that is closed when the launcher ends.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits SIG_IGN
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # the launcher forwards lines as they come
    with open(payload, "rb") as file:
        job = pickle.load(file)
    _watch(lifeline, job["stop_timeout_s"])
    try:
        returned = _run(job)
    except SystemExit as exc:
        if exc.code not in (None, 0):
            raise
        returned = JobReturn(status=JobStatus.COMPLETED)
    except KeyboardInterrupt:
        sys.exit(130)
    failed = returned.status != JobStatus.COMPLETED
    if failed and not job["reports"]:
        traceback.print_exception(returned._return_value)
    with open(result, "wb") as file:
        file.write(_pickled(returned))
    if failed:
        sys.exit(1)


def _run(job: dict[str, Any]) -> JobReturn:
    sys.argv = job["argv"]
    setup_globals()
    Singleton.set_state(job["singletons"])
    config = job["config"]
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=job["context"],
        task_function=job["task"],
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _pickled(returned: JobReturn) -> bytes:
    """Return the result with its reason; what cannot be sent is replaced by its description."""
    value = returned._return_value
    failed = returned.status != JobStatus.COMPLETED
    reason = f"{type(value).__name__}: {value}".strip().rstrip(":") if failed else ""
    try:
        data: bytes = cloudpickle.dumps((returned, reason))
        pickle.loads(data)  # many exceptions can be pickled, but not be unpickled
    except Exception as exc:
        if not failed:
            returned.status = JobStatus.FAILED
            reason = f"its return value cannot be sent to the launcher: {exc}"
        returned.return_value = RuntimeError(reason)
        data = cloudpickle.dumps((returned, reason))
    return data


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _watch(lifeline: int, timeout_s: float) -> None:
    """End this process and its children when the launcher is gone, even if that was killed."""
    orphaned = threading.Event()

    def kill_group() -> None:
        if orphaned.is_set():
            os.killpg(0, signal.SIGKILL)

    def wait() -> None:
        os.read(lifeline, 1)
        orphaned.set()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(timeout_s)
        kill_group()

    atexit.register(kill_group)  # registered first, so it runs last
    threading.Thread(target=wait, name="launcher-lifeline", daemon=True).start()
