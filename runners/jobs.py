"""The jobs of one command: builds each, runs it, and collects the rows of a sweep's table."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipeline.config.build import build_job
from pipeline.config.outputs import local_directories
from pipeline.errors import ConfigError, PipelineError
from pipeline.job import Job, Report, inputs_of
from pipeline.redaction import safe_text
from pipeline.system.memory import keep_pages
from pipeline.system.terminal import print_stderr, print_stdout
from runners.reporting.resuming import describe_kept, resume_command
from runners.reporting.sweep import NOT_STARTED, SweepJob, print_sweep, varied, write_sweep


class Terminated(BaseException):
    """SIGTERM: ends the run as Ctrl-C does, so that everything is closed."""

    exit_status = 143


class _LaunchedFailedError(Exception):
    """Raised in the process of a launched job whose status is not 0. Its argument is its row."""


class Jobs:
    """Hydra's task function: runs the job, or the jobs of a sweep, one after the other.

    With ``hydra/launcher=gpu``, each job of a sweep runs in a process of its own, with a copy of
    this object. What it sends back reaches ``job_ended`` of the original.

    Args:
        started: When the command was started, in seconds since 1970.

    Attributes:
        statuses: The exit status of each job that ended.
        swept: The keys that a sweep varies.
    """

    def __init__(self, started: float | None) -> None:
        self.statuses: list[int] = []
        self.swept: frozenset[str] = frozenset()
        self._started = started
        self._is_launched = False  # in the process of a job
        self._job: Job | None = None  # the current job, or the last one
        self._rows: list[SweepJob] = []
        self._stopped: list[Path] = []  # the outputs of launched jobs that were interrupted
        self._sweep: Path | None = None  # its directory
        self._quiet = False

    def __getstate__(self) -> dict[str, Any]:
        """Return what the process of a launched job needs."""
        return {"swept": self.swept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become the copy in the process of a launched job."""
        self.__init__(None)  # type: ignore[misc]
        self.swept, self._is_launched = state["swept"], True

    def __call__(self, cfg: DictConfig) -> Any:
        """Build and run one job. Nothing is raised but interruptions: that would end a sweep.

        Returns:
            The number that a sweeper can optimize; ``None`` if nothing was evaluated. In the
            process of a launched job, what ``job_ended`` reads.
        """
        if not self._is_launched:
            return self._run_one(cfg)
        stop_on_signals()
        keep_pages()
        try:
            self._run_one(cfg)
        except Terminated as exc:
            sys.exit(exc.exit_status)
        if self._rows[-1].status:  # the launcher must know that it failed
            raise _LaunchedFailedError(self._rows[-1])
        return self._rows[-1]

    def job_ended(self, job: Any) -> float | None:
        """Add the row of a launched job. ``hydra/launcher=gpu`` calls this in its own process.

        Args:
            job: The job, as the launcher's README.md describes it.

        Returns:
            The number that a sweeper can optimize.
        """
        self._quiet = job.config.get("quiet") is True
        self._sweep = job.sweep_directory
        if job.status == NOT_STARTED:
            overrides, reason = varied(job.overrides, self.swept), safe_text(job.reason)
            self._rows.append(
                SweepJob.of(job.number, overrides, None, None, job.directory, message=reason)
            )
            return None
        row = job.value.args[0] if isinstance(job.value, _LaunchedFailedError) else job.value
        if not isinstance(row, SweepJob):  # its process died
            overrides = varied(job.overrides, self.swept)
            row = SweepJob.of(job.number, overrides, 0, job.seconds, job.directory)
        if not row.status and job.status != "done":  # or died after the job
            row = replace(row, status=job.exit_status or 1, message=safe_text(job.reason))
            if job.status == "stopped":
                self._stopped.append(job.directory)
            else:
                print_stderr(f"error: job {job.number}: {job.reason}")
            _remove_if_empty(job.directory)
        self._rows.append(row)
        self.statuses.append(row.status or 0)
        return row.metric

    def _run_one(self, cfg: DictConfig) -> float | None:
        hydra, began = HydraConfig.get(), time.monotonic()
        is_sweep = hydra.mode == RunMode.MULTIRUN
        number = hydra.job.num if is_sweep else 0
        task: Any = OmegaConf.to_container(hydra.overrides.task)  # interpolations stay
        overrides = varied(task, self.swept)
        output = Path(hydra.runtime.output_dir)
        self._job, self._quiet = None, cfg.get("quiet") is True
        if is_sweep:
            self._sweep = Path(hydra.sweep.dir).absolute()
            if not self._quiet:
                device = os.environ.get("HYDRA_GPU_LAUNCHER_DEVICE")
                where = f" on {device}" if self._is_launched and device else ""
                print_stderr(f"job {number}{where}: {' '.join(overrides)}")
        status, report, message = 130, None, ""
        try:
            status, report, message = self._run(cfg)
            if message:
                kind = "error" if status else "warning"
                print_stderr(f"{kind}: {f'job {number}: ' * is_sweep}{message}")
            self.statuses.append(status)
            if is_sweep and report is not None and report.interrupted:
                raise KeyboardInterrupt if status == 130 else Terminated
        except Terminated as exc:
            status = exc.exit_status
            raise
        finally:
            if is_sweep:
                seconds = time.monotonic() - began
                metric = None if report is None else report.metric
                directory = self._directory(report, output)
                self._rows.append(
                    SweepJob.of(number, overrides, status, seconds, directory, metric, message)
                )
            _remove_if_empty(output)
        return None if report is None else report.metric

    def _directory(self, report: Report | None, output: Path) -> Path:
        """Return the directory with the results of the last job; ``output`` if it has none."""
        if report is not None and report.output is not None:
            return report.output.absolute()
        return output if self._job is None else self._job.output

    def _run(self, cfg: DictConfig) -> tuple[int, Report | None, str]:
        """Return the exit status (docs/run.md), the report, and what went wrong."""
        try:
            self._job = build_job(cfg, None if self.statuses else self._started)
            if self._is_launched and "-" in inputs_of(self._job.config["input"]):
                raise ConfigError(
                    "input=-: the jobs of hydra/launcher=gpu run at the same time and cannot share "
                    "standard input; write the list to a file and use input=list.txt"
                )
            report = self._job.runner.run(self._job)
        except PipelineError as exc:
            # what fails while building is a mistake in the configuration: nothing was started
            message = self._job.shown(str(exc)) if self._job else str(exc)
            return exc.exit_status if self._job else ConfigError.exit_status, None, message
        except Exception as exc:
            message = f"unexpected {type(exc).__name__}: {exc}"
            if self._job is not None and (log := self._job.output / "run.log").exists():
                message += f"; the traceback is in {log}"
            return 1, None, message
        return report.exit_status, report, self._job.shown(report.message)

    def report_sweep(self) -> None:
        """Print and write the table of a sweep's jobs, and write its page.

        Raises:
            OutputError: A file cannot be written.
        """
        if self._sweep is None:
            return
        rows = sorted(self._rows, key=lambda row: row.job)  # launched jobs end in any order
        for reason, n in Counter(row.message for row in rows if row.status is None).items():
            print_stderr(f"error: {n} job{'s' * (n > 1)} not started: {reason}")
        if not self._quiet:
            print_sweep(self._sweep, rows)
        if self._sweep.is_dir():
            from runners.reporting.sweep_page import write_sweep_page  # sweeps alone need it

            write_sweep(self._sweep, rows)
            sys.stdout.flush()
            for each in (signal.SIGINT, signal.SIGTERM):  # only the page can still be lost
                signal.signal(each, lambda number, _: os._exit(128 + number))
            write_sweep_page(self._sweep, rows)
            if not self._quiet:
                page = str(self._sweep / "sweep.html")
                print_stdout(f"look at them in {page}", unbroken=[page])

    def say_interrupted(self, what: str) -> None:
        """Print what is kept of the interrupted jobs, and how to resume them."""
        outputs = self._stopped or ([self._job.output] if self._job is not None else [])
        kept = "; ".join(filter(None, map(describe_kept, outputs)))
        kept = self._job.shown(kept) if self._job is not None else kept
        if self._job is None or self._job.source is not None:
            what += f"; {kept or 'there are no results yet'}"
        print_stderr(f"error: {what}")
        if kept:
            print("resume with: ", end="", file=sys.stderr)  # noqa: T201 - as a user would type it
            command = resume_command(sys.orig_argv, self._sweep or outputs[0])
            print(command, file=sys.stderr)  # noqa: T201


def stop_on_signals() -> None:
    """Let Ctrl-C and SIGTERM stop the run cleanly, and immediately the second time."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _remove_if_empty(directory: Path) -> None:
    """Remove the directory that Hydra created by default for a job that wrote nothing there."""
    defaults = Path.cwd() / "outputs", Path.cwd() / "multirun", local_directories()
    for candidate in (directory, *directory.parents):
        if not any(candidate.is_relative_to(root) for root in defaults):
            return
        try:
            candidate.rmdir()
        except OSError:  # the directory is not empty
            return


def _stop(signum: int, frame: FrameType | None) -> None:
    """Stop the run cleanly at the first signal, immediately at the second."""
    first: type[BaseException] = KeyboardInterrupt if signum == signal.SIGINT else Terminated
    status = 128 + signum
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(status))
    raise first
