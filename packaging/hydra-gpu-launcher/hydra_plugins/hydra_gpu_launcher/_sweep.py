"""Runs the jobs of a sweep: which job starts when, on which slot, and what follows its end."""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.hydra_gpu_launcher._devices import Slot
from hydra_plugins.hydra_gpu_launcher._errors import LauncherError
from hydra_plugins.hydra_gpu_launcher._job import (
    DONE,
    FAILED,
    NOT_STARTED,
    STOPPED,
    Job,
    describe_exit,
)
from hydra_plugins.hydra_gpu_launcher._options import Options

log = logging.getLogger(__name__)

_MEMORY_INTERVAL_S = 2.0  # between two looks at the memory of GPUs
_WAIT_S = 0.05


class Process(Protocol):
    """The process of a job (``_process.JobProcess``, with its output)."""

    @property
    def pid(self) -> int:
        """The process id."""
        ...

    def poll(self) -> int | None:
        """Return the return code once the process has ended."""
        ...

    def interrupt(self, number: int) -> None:
        """Send a signal."""
        ...

    def kill(self) -> int:
        """Kill the process and wait for its end."""
        ...

    def result(self) -> tuple[JobReturn | None, str]:
        """Return the result and the reason of a failure."""
        ...

    def close(self) -> None:
        """Release what belongs to the process."""
        ...


@dataclass(eq=False)
class _Running:
    job: Job
    process: Process
    started: float


class Sweep:
    """Runs jobs on slots.

    Args:
        jobs: The jobs, in order.
        slots: Where they run, one job per slot at a time.
        options: The options of the sweep.
        start: Starts the process of a job on a slot.
        ended: Called for each job, in the order in which they end.
        free_memory: Returns the free memory in MiB by device.
        wait: Waits up to some seconds. It forwards output meanwhile, and it alone raises what ends
            the sweep early, such as ``KeyboardInterrupt``.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[Slot],
        options: Options,
        *,
        start: Callable[[Job, Slot], Process],
        ended: Callable[[Job], None],
        free_memory: Callable[[], Mapping[str, int]],
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting = deque(jobs)
        self._slots, self._options = slots, options
        self._start, self._ended, self._free_memory = start, ended, free_memory
        self._wait, self._clock = wait, clock
        self._running: dict[Slot, _Running] = {}
        self._next_start = self._next_look = float("-inf")
        self._stopped_by: Job | None = None
        self._said_waiting = False

    def run(self) -> None:
        """Run all jobs. When this raises or returns, no process is left."""
        try:
            while self._running or self._waiting:
                while self._waiting and (slot := self._next_slot()) is not None:
                    self._launch(slot)
                    if self._stopped_by is not None:
                        break
                self._wait(_WAIT_S)
                self._collect(FAILED)
                if self._stopped_by is not None:
                    self._drop_waiting(f"job {self._stopped_by.number} failed")
        except BaseException as exc:
            interrupted = isinstance(exc, KeyboardInterrupt)
            self._stop(signal.SIGINT if interrupted else signal.SIGTERM)
            self._drop_waiting("the sweep was interrupted" if interrupted else "the sweep ended")
            raise

    def _next_slot(self) -> Slot | None:
        """Return where a job can start now, on the GPU with the fewest jobs."""
        now = self._clock()
        busy = Counter(slot.visible for slot in self._running)
        free = [slot for slot in self._slots if slot not in self._running]
        if now < self._next_start or not free:
            return None
        if self._options.min_free_mb:
            if now < self._next_look:
                return None
            free = list(self._with_memory(free))
            if not free:
                self._next_look = now + _MEMORY_INTERVAL_S
                return None
        self._said_waiting = False
        return min(free, key=lambda slot: (busy[slot.visible], slot.number))

    def _with_memory(self, slots: Sequence[Slot]) -> Iterator[Slot]:
        try:
            memory = self._free_memory()
        except LauncherError as exc:  # it worked before the first job
            log.warning("%s; trying again", exc)
            return
        wanted = self._options.min_free_mb
        yield from (slot for slot in slots if memory.get(slot.visible, 0) >= wanted)
        if not self._said_waiting and not any(memory.get(s.visible, 0) >= wanted for s in slots):
            self._said_waiting = True
            found = ", ".join(
                dict.fromkeys(f"{slot.device} has {memory.get(slot.visible, 0)}" for slot in slots)
            )
            log.info("waiting for %d MiB of free memory: %s", wanted, found)

    def _launch(self, slot: Slot) -> None:
        job = self._waiting.popleft()
        job.device, job.attempts = slot.device, job.attempts + 1
        started = self._clock()
        self._next_start = started + self._options.start_interval_s
        try:
            process = self._start(job, slot)
        except OSError as exc:
            self._end(job, FAILED, f"its process cannot be started: {exc}")
            return
        self._running[slot] = _Running(job, process, started)
        log.info(
            "job %d started on %s, process %d: %s",
            job.number, slot.device, process.pid, " ".join(job.overrides),
        )  # fmt: skip

    def _collect(self, status: str) -> None:
        """Handle the end of processes; ``status`` is that of jobs that are not done."""
        for slot, running in list(self._running.items()):
            code = running.process.poll()
            if code is not None:
                self._read(running, code, status)
                del self._running[slot]

    def _read(self, running: _Running, code: int, status: str) -> None:
        job = running.job
        job.seconds = self._clock() - running.started
        job.exit_status = code if code >= 0 else 128 - code
        job.returned, reason = running.process.result()
        running.process.close()
        job.value = job.returned._return_value if job.returned is not None else None
        if job.returned is None:
            lost = "" if code else " without a result"
            self._end(job, status, reason or describe_exit(code) + lost)
        elif job.returned.status != JobStatus.COMPLETED:
            self._end(job, status, reason)
        elif code:
            self._end(job, status, f"the job returned, but then {describe_exit(code)}")
        else:
            self._end(job, DONE)

    def _end(self, job: Job, status: str, reason: str = "") -> None:
        if status == FAILED and job.attempts <= self._options.retries and not self._stopped_by:
            log.warning("job %d failed, and is retried: %s", job.number, reason)
            job.reason = reason
            self._waiting.append(job)
            return
        job.status, job.reason = status, reason
        if status == FAILED and self._options.stop_on_failure:
            self._stopped_by = self._stopped_by or job
        if status == DONE:
            log.info("job %d is done after %.1f s", job.number, job.seconds)
        else:
            log.warning("job %d %s: %s", job.number, status, reason)
        self._ended(job)

    def _drop_waiting(self, reason: str) -> None:
        while self._waiting:
            job = self._waiting.popleft()
            job.status, job.reason = (FAILED, job.reason) if job.attempts else (NOT_STARTED, reason)
            self._ended(job)

    def _stop(self, number: int) -> None:
        """Stop all jobs: they may end by themselves until the timeout, then they are killed."""
        try:
            for running in self._running.values():
                running.process.interrupt(number)
            deadline = self._clock() + self._options.stop_timeout_s
            while self._running and self._clock() < deadline:
                self._wait(_WAIT_S)
                self._collect(STOPPED)
        finally:
            killed = [(running, running.process.kill()) for running in self._running.values()]
            self._running.clear()
            for running, code in killed:
                self._read(running, code, STOPPED)
