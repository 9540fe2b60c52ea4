"""The main function of ``run.py``: compose the configuration, build the job, run it, report."""

from __future__ import annotations

import os
import signal
import sys
import time
from argparse import Namespace
from contextlib import redirect_stdout
from io import StringIO, TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.build import build_job
from pipeline.config.explain import explain
from pipeline.config.help import help_text
from pipeline.config.loader import Loader
from pipeline.errors import ConfigError, OutputError, PipelineError
from pipeline.job import Job, Report
from pipeline.redaction import redacted_text
from pipeline.system.memory import keep_pages
from pipeline.system.terminal import print_stderr
from runners.command_line import parse, swept_keys
from runners.reporting.resuming import describe_kept, resume_command
from runners.reporting.sweep import SweepJob, print_sweep, varied, write_record, write_sweep
from runners.rerun import expand_rerun

_CONF = Path(__file__).parent.parent / "conf"


class Terminated(BaseException):
    """SIGTERM: ends the run as Ctrl-C does, so that everything is closed."""

    exit_status = 143


def main(started: float | None = None) -> int:
    """Run what the command line asks for.

    Args:
        started: When the command was started, in seconds since 1970; by default now.

    Returns:
        The exit status: the largest of the jobs', 2 if the configuration does not compose.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - closed by the caller
    if isinstance(sys.stdout, TextIOWrapper):  # its encoding may lack letters of a message
        sys.stdout.reconfigure(errors="backslashreplace")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    keep_pages()
    jobs = _Jobs(started)
    try:
        try:
            _start(parse(sys.argv[1:]), jobs)
        finally:  # all results are written: a signal now could only change the exit status
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            jobs.report_sweep()
    except (KeyboardInterrupt, Terminated) as exc:
        jobs.say_interrupted("terminated" if isinstance(exc, Terminated) else "interrupted")
        return exc.exit_status if isinstance(exc, Terminated) else 130
    except (ConfigError, HydraException, OmegaConfBaseException, ValueError) as exc:
        if "HYDRA_FULL_ERROR" in os.environ:
            raise
        print_stderr(f"error: {exc if isinstance(exc, ConfigError) else explain(exc)}")
        return ConfigError.exit_status
    except BrokenPipeError:  # `run.py --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (FileExistsError, NotADirectoryError) as exc:  # raised for the directory Hydra creates
        print_stderr(f"error: output {exc.filename}: it is a file; choose another output")
        return ConfigError.exit_status
    except OSError as exc:
        print_stderr(f"error: cannot write the output {exc.filename}: {exc.strerror}")
        return 1
    except OutputError as exc:
        print_stderr(f"error: {exc}")
        return max([exc.exit_status, *jobs.statuses])
    return max(jobs.statuses, default=0)


class _Jobs:
    """Runs the job, or the jobs of a sweep, one after the other.

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
        self._job: Job | None = None  # the current job, or the last one
        self._rows: list[SweepJob] = []
        self._sweep: Path | None = None  # its directory
        self._quiet = False

    def run(self, cfg: DictConfig) -> float | None:
        """Build and run one job. Nothing is raised but interruptions: that would end a sweep.

        Returns:
            The number that a sweeper can optimize; ``None`` if nothing was evaluated.
        """
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
                print_stderr(f"job {number}: {' '.join(overrides)}")
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
            report = self._job.runner.run(self._job)
        except PipelineError as exc:
            # what fails while building is a mistake in the configuration: nothing was started
            return exc.exit_status if self._job else ConfigError.exit_status, None, str(exc)
        except Exception as exc:
            message = f"unexpected {type(exc).__name__}: {exc}"
            if self._job is not None and (log := self._job.output / "run.log").exists():
                message += f"; the traceback is in {log}"
            return 1, None, message
        return report.exit_status, report, report.message

    def report_sweep(self) -> None:
        """Print and write the table of a sweep's jobs, and write its page.

        Raises:
            OutputError: A file cannot be written.
        """
        if self._sweep is None:
            return
        if not self._quiet:
            print_sweep(self._sweep, self._rows)
        if self._sweep.is_dir():
            from runners.reporting.sweep_page import write_sweep_page  # sweeps alone need it

            write_sweep(self._sweep, self._rows)
            sys.stdout.flush()
            for each in (signal.SIGINT, signal.SIGTERM):  # only the page can still be lost
                signal.signal(each, lambda number, _: os._exit(128 + number))
            write_sweep_page(self._sweep, self._rows)

    def say_interrupted(self, what: str) -> None:
        """Print what is kept of an interrupted job, and how to resume it."""
        kept = describe_kept(self._job.output) if self._job is not None else ""
        if self._job is None or self._job.source is not None:
            what += f"; {kept or 'there are no results yet'}"
        print_stderr(f"error: {what}")
        if self._job is not None and kept:
            print("resume with: ", end="", file=sys.stderr)
            print(resume_command(sys.orig_argv, self._sweep or self._job.output), file=sys.stderr)


class _SweepRecord:
    """Replaces OmegaConf in Hydra's sweeper, which only saves ``multirun.yaml`` with it."""

    @staticmethod
    def save(config: Any, f: str | Path) -> None:
        write_record(OmegaConf.to_container(config, enum_to_str=True), Path(f))


def _start(line: Namespace, jobs: _Jobs) -> None:
    """Compose the configuration and do with it what the flags say.

    This is what ``hydra.main`` does, with a loader that checks everything before Hydra acts on it.
    """
    version.setbase("1.3")
    if not (line.help or line.shell_completion):
        line = expand_rerun(line)
    loader = Loader(_CONF, line.config_dir)
    app = Hydra(task_name="run", config_loader=loader)
    name, overrides = line.config_name or "config", line.overrides
    entry: TaskFunction = jobs.run
    GlobalHydra.instance().initialize(app)
    try:
        if line.help:
            print(help_text(loader, name, overrides))
        elif line.hydra_help:
            app.hydra_help(name, line.parser, line)
        elif line.cfg is not None or line.info is not None:
            cfg = loader.load_configuration(name, overrides, RunMode.RUN)  # explains its errors
            if line.package is not None and OmegaConf.select(cfg, line.package) is None:
                raise ConfigError(f"--package {line.package}: there is no such key")
            if line.info is not None:
                app.show_info(line.info, name, overrides)
            else:
                with redirect_stdout(StringIO()) as shown:
                    app.show_cfg(name, overrides, line.cfg, line.package, line.resolve)
                print(redacted_text(shown.getvalue()), end="")
        elif line.shell_completion:
            app.shell_completion(name, overrides)
        elif line.multirun:
            _replace_sweep_record()
            jobs.swept = swept_keys(overrides)
            app.multirun(name, entry, [*overrides, "hydra.mode=MULTIRUN"])
        else:
            app.run(name, entry, [*overrides, "hydra.mode=RUN"])
    finally:
        GlobalHydra.instance().clear()


def _replace_sweep_record() -> None:
    Plugins.instance()  # loads the sweeper's module again
    from hydra._internal.core_plugins import basic_sweeper

    basic_sweeper.OmegaConf = _SweepRecord  # type: ignore[attr-defined, assignment]


def _remove_if_empty(directory: Path) -> None:
    """Remove the directory that Hydra created by default for a job that wrote nothing there."""
    defaults = Path.cwd() / "outputs", Path.cwd() / "multirun"
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
