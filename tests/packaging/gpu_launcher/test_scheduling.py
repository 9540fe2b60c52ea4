"""Which job starts when, on which slot, and what follows its end; with processes made of paper."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from hydra_plugins.hydra_gpu_launcher._devices import Slot
from hydra_plugins.hydra_gpu_launcher._errors import JobFailedError, LauncherError
from hydra_plugins.hydra_gpu_launcher._job import Job, format_table
from hydra_plugins.hydra_gpu_launcher._options import Options, read_options
from hydra_plugins.hydra_gpu_launcher._sweep import Sweep
from hydra_plugins.hydra_gpu_launcher.gpu_launcher import GpuLauncherConf

GPUS = [Slot(0, "GPU 0", "a"), Slot(1, "GPU 1", "b")]


def options(**given: Any) -> Options:
    values = {**vars(GpuLauncherConf()), **given}
    del values["_target_"]
    return read_options(**values)


@dataclass(eq=False)
class Paper:
    """A process that runs for some seconds of the test's clock."""

    lab: Lab
    job: Job
    slot: Slot
    seconds: float
    code: int
    deaf: bool = False
    pid: int = 1
    closed: bool = False
    signals: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.end = self.lab.now + self.seconds

    def poll(self) -> int | None:
        return self.code if self.lab.now >= self.end else None

    def interrupt(self, number: int) -> None:
        self.signals.append(number)
        if not self.deaf:
            self.end, self.code = self.lab.now + 1, 128 + number

    def kill(self) -> int:
        self.end, self.code = self.lab.now, -signal.SIGKILL
        return self.code

    def result(self) -> tuple[JobReturn | None, str]:
        assert not self.closed
        if self.code in (-9, 9, 130, 143):
            return None, ""
        if self.code:
            error = ValueError("bad")
            return JobReturn(status=JobStatus.FAILED, _return_value=error), "ValueError: bad"
        return JobReturn(status=JobStatus.COMPLETED, _return_value=self.job.number), ""

    def close(self) -> None:
        self.closed = True


class Lab:
    """Runs sweeps by its own clock.

    Args:
        plan: Seconds and return code of each attempt, by job; otherwise 10 s and 0.
        slots: Where jobs run.
        free: Returns the free memory by device.
        at: What happens at a time of the clock.
        given: Options of the launcher.
    """

    def __init__(
        self,
        *,
        n: int,
        plan: dict[int, list[tuple[float, int]]] | None = None,
        slots: list[Slot] = GPUS,
        free: Callable[[float], dict[str, int]] = lambda now: {},
        at: dict[float, BaseException] | None = None,
        deaf: bool = False,
        **given: Any,
    ) -> None:
        self.now = 0.0
        self.plan, self.at, self.deaf = plan or {}, at or {}, deaf
        self.starts: list[tuple[float, int, str]] = []
        self.ended: list[int] = []
        self.papers: list[Paper] = []
        self.most = 0
        here = Path("/none")
        self.jobs = [Job(i, (f"x={i}",), DictConfig({}), here / str(i), here) for i in range(n)]
        self.sweep = Sweep(
            self.jobs,
            slots,
            options(**given),
            start=self.start,
            ended=lambda job: self.ended.append(job.number),
            free_memory=lambda: free(self.now),
            wait=self.wait,
            clock=lambda: self.now,
        )

    def start(self, job: Job, slot: Slot) -> Paper:
        running = [paper for paper in self.papers if not paper.closed]
        assert slot not in [paper.slot for paper in running], "two jobs on a slot"
        seconds, code = (self.plan.get(job.number) or [(10.0, 0)]).pop(0)
        if code == 1000:
            raise OSError("no more processes")
        self.starts.append((self.now, job.number, slot.device))
        self.papers.append(Paper(self, job, slot, seconds, code, self.deaf))
        self.most = max(self.most, len(running) + 1)
        return self.papers[-1]

    def wait(self, seconds: float) -> None:
        self.now += 0.5
        assert self.now < 1000, "the sweep does not end"
        if error := self.at.pop(self.now, None):
            raise error

    def statuses(self) -> list[str]:
        assert all(paper.closed for paper in self.papers)
        assert sorted(self.ended) == [job.number for job in self.jobs]  # each once
        return [job.status for job in self.jobs]


def test_slots_are_shared_out() -> None:
    lab = Lab(n=5, plan={0: [(3, 0)]})
    lab.sweep.run()
    assert lab.starts == [
        (0, 0, "GPU 0"), (0, 1, "GPU 1"), (3, 2, "GPU 0"), (10, 3, "GPU 1"), (13, 4, "GPU 0"),
    ]  # fmt: skip
    assert (lab.most, lab.statuses()) == (2, ["done"] * 5)
    assert [(job.seconds, job.value, job.attempts) for job in lab.jobs[:2]] == [
        (3, 0, 1), (10, 1, 1)
    ]  # fmt: skip


def test_jobs_are_spread_over_gpus() -> None:
    slots = [Slot(0, "GPU 0", "a"), Slot(1, "GPU 1", "b")]
    slots += [Slot(2, "GPU 0", "a"), Slot(3, "GPU 1", "b")]
    lab = Lab(n=5, plan={0: [(30, 0)], 2: [(30, 0)], 1: [(5, 0)], 3: [(6, 0)]}, slots=slots)
    lab.sweep.run()
    assert [device for _, _, device in lab.starts] == ["GPU 0", "GPU 1"] * 2 + ["GPU 1"]


def test_failures_do_not_stop_the_others() -> None:
    lab = Lab(n=5, plan={0: [(1, 9)], 1: [(1, 1)], 2: [(1, -9)], 3: [(1, 1000)]})
    lab.sweep.run()
    assert lab.statuses() == ["failed"] * 4 + ["done"]
    assert [job.exit_status for job in lab.jobs] == [9, 1, 137, None, 0]
    assert [job.reason for job in lab.jobs] == [
        "its process exited with status 9",
        "ValueError: bad",
        "its process was killed by SIGKILL",
        "its process cannot be started: no more processes",
        "",
    ]
    returned = lab.jobs[1].to_return()
    with pytest.raises(JobFailedError, match="job 1 failed: ValueError: bad") as error:
        _ = returned.return_value
    assert isinstance(error.value.__cause__, ValueError)
    assert lab.jobs[4].to_return().return_value == 4


def test_retries_come_after_the_waiting_jobs() -> None:
    lab = Lab(n=3, plan={0: [(1, 9), (1, 1), (1, 0)], 1: [(1, 1), (1, 1), (1, 9)]}, retries=2)
    lab.sweep.run()
    assert lab.statuses() == ["done", "failed", "done"]
    assert [job.attempts for job in lab.jobs] == [3, 3, 1]
    assert [job for _, job, _ in lab.starts[:4]] == [0, 1, 2, 0]
    assert [job.reason for job in lab.jobs] == ["", "its process exited with status 9", ""]


def test_the_last_attempt_counts_for_on_failure() -> None:
    lab = Lab(n=3, plan={0: [(1, 1), (1, 0)]}, retries=1, on_failure="stop")
    lab.sweep.run()
    assert lab.statuses() == ["done"] * 3


def test_on_failure_stop() -> None:
    lab = Lab(n=6, plan={0: [(3, 1)]}, on_failure="stop", retries=0)
    lab.sweep.run()
    assert lab.statuses() == ["failed", "done", *["not started"] * 4]  # job 1 was running
    assert lab.jobs[2].reason == "job 0 failed"
    with pytest.raises(JobFailedError, match="job 2 not started: job 0 failed"):
        _ = lab.jobs[2].to_return().return_value


def test_on_failure_stop_drops_retries() -> None:
    lab = Lab(n=2, plan={0: [(1, 1), (8, 9)], 1: [(2, 1), (4, 1)]}, retries=1, on_failure="stop")
    lab.sweep.run()
    assert lab.statuses() == ["failed", "failed"]
    assert [job.attempts for job in lab.jobs] == [2, 2]
    lab = Lab(n=2, plan={0: [(1, 1000), (1, 1000)]}, on_failure="stop", slots=GPUS[:1])
    lab.sweep.run()
    assert lab.statuses() == ["failed", "not started"]


def test_start_interval() -> None:
    lab = Lab(n=4, start_interval_s=4)
    lab.sweep.run()
    assert [time for time, *_ in lab.starts] == [0, 4, 10, 14]


def test_min_free_mb_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def free(now: float) -> dict[str, int]:
        if 3 < now < 5:
            raise LauncherError("nvidia-smi did not answer")
        return {"a": 500 if now < 20 else 4000, "b": 4000 if 5 < now < 8 else 999}

    lab = Lab(n=2, free=free, min_free_mb=1000)
    lab.sweep.run()
    assert lab.starts == [(6, 0, "GPU 1"), (20, 1, "GPU 0")]  # it looks every two seconds
    said = [record.getMessage() for record in caplog.records]
    assert "waiting for 1000 MiB of free memory: GPU 0 has 500, GPU 1 has 999" in said
    assert "nvidia-smi did not answer; trying again" in said
    assert len([each for each in said if each.startswith("waiting")]) == 2  # not at every look


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize("deaf", [False, True])
def test_interruptions(error: BaseException, deaf: bool) -> None:
    plan = {0: [(3.0, 0)], 1: [(20.0, 0)], 2: [(20.0, 0)]}
    lab = Lab(n=4, plan=plan, at={6.0: error}, deaf=deaf, stop_timeout_s=5)
    with pytest.raises(type(error)):
        lab.sweep.run()
    assert lab.statuses() == ["done", "stopped", "stopped", "not started"]
    number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
    assert [paper.signals for paper in lab.papers] == [[], [number], [number]]
    code = 137 if deaf else 128 + number
    assert [job.exit_status for job in lab.jobs] == [0, code, code, None]
    assert lab.jobs[1].seconds == (11 if deaf else 7)


def test_a_second_interruption_kills() -> None:
    lab = Lab(n=2, deaf=True, at={1.0: KeyboardInterrupt(), 2.0: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        lab.sweep.run()
    assert lab.statuses() == ["stopped"] * 2
    assert [job.seconds for job in lab.jobs] == [2, 2]


def test_a_process_that_dies_after_its_job() -> None:
    lab = Lab(n=1)
    paper = Paper(lab, lab.jobs[0], GPUS[0], 1, -11)
    paper.result = lambda: (JobReturn(status=JobStatus.COMPLETED), "")  # type: ignore[method-assign]
    lab.sweep._start = lambda job, slot: paper
    lab.sweep.run()
    job = lab.jobs[0]
    assert (job.status, job.exit_status) == ("failed", 139)
    assert job.reason == "the job returned, but then its process was killed by SIGSEGV"


def test_the_table() -> None:
    lab = Lab(n=3, plan={1: [(1, 1), (12.26, 9)]}, retries=1, slots=GPUS[:1])
    lab.sweep.run()
    lab.jobs[2].status, lab.jobs[2].attempts, lab.jobs[2].device = "skipped", 0, ""
    lab.jobs[1].reason = "two\nlines"
    assert format_table(lab.jobs).splitlines() == [
        "job  status   seconds  device  attempts  overrides  reason",
        "---  -------  -------  ------  --------  ---------  ---------",
        "  0  done        10.0  GPU 0          1  x=0",
        "  1  failed      12.5  GPU 0          2  x=1        two lines",
        "  2  skipped                          0  x=2",
        "1 done, 1 failed, 1 skipped",
    ]
    lab.jobs[1].attempts = 1
    assert "attempts" not in format_table(lab.jobs)
