"""Compose the configuration, build the job, run it, report: what ``run.py`` does."""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from pathlib import Path
from types import FrameType

from hydra import version
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config import build_job
from pipeline.config.explain import explain
from pipeline.config.loader import Loader
from pipeline.errors import ConfigError, PipelineError, printable
from pipeline.redaction import redacted_text
from pipeline.system.memory import keep_pages
from runners.command_line import parse
from runners.reporting.sweep import redact_sweeps

_CONF = Path(__file__).parent.parent / "conf"


class Terminated(BaseException):
    """SIGTERM: ends the run as Ctrl-C does, so that everything is closed on the way out."""

    exit_status = 143


def run_job(cfg: DictConfig, started: float | None = None) -> int:
    """Build and run one job; say on standard error what went wrong, if anything did.

    Args:
        cfg: Its configuration.
        started: When it was started, in seconds since 1970; by default now.

    Returns:
        The exit status (formats.md). Raising would end in Hydra's hands, exiting would end a sweep.
    """
    job = None
    try:
        job = build_job(cfg, started)
        report = job.runner.run(job)
        status, message = report.exit_status, report.message
    except PipelineError as exc:
        # what is found while building is the configuration's fault: nothing was started
        status, message = exc.exit_status if job else ConfigError.exit_status, str(exc)
    except Exception as exc:
        status, message = 1, f"unexpected {type(exc).__name__}: {exc}"
        if job and (job.output / "run.log").exists():
            message += f"; the traceback is in {job.output / 'run.log'}"
    if message:
        _complain(_job_name() + message)
    _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
    return status


def main(started: float | None = None) -> int:
    """Run what the command line asks for.

    Args:
        started: When the command was started, in seconds since 1970; by default now.

    Returns:
        The exit status: the largest of the jobs', 2 if the configuration does not compose.
    """
    statuses: list[int] = []
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - closed by the caller
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    keep_pages()
    redact_sweeps()

    def entry(cfg: DictConfig) -> None:
        statuses.append(run_job(cfg, started if not statuses else None))

    try:
        try:
            _start(parse(sys.argv[1:]), entry)
        finally:  # all is written: a signal now could only spoil the status
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        _complain("interrupted; what was finished is kept")
        return 130
    except Terminated as exc:
        _complain("terminated; what was finished is kept")
        return exc.exit_status
    except (ConfigError, HydraException, OmegaConfBaseException, ValueError) as exc:
        if "HYDRA_FULL_ERROR" in os.environ:
            raise
        _complain(str(exc) if isinstance(exc, ConfigError) else explain(exc))
        return ConfigError.exit_status
    except BrokenPipeError:  # `run.py --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (FileExistsError, NotADirectoryError) as exc:  # of the folder that Hydra makes
        _complain(f"output {exc.filename}: a file is in its place; choose another output")
        return ConfigError.exit_status
    except OSError as exc:
        _complain(f"cannot write the output {exc.filename}: {exc.strerror}")
        return 1
    return max(statuses, default=0)


def _start(line: Namespace, entry: TaskFunction) -> None:
    """Compose the configuration and do with it what the flags say.

    This is what ``hydra.main`` does, with a loader that checks everything before Hydra acts on it.
    """
    version.setbase("1.3")
    loader = Loader(_CONF, line.config_dir)
    app = Hydra(task_name="run", config_loader=loader)
    name, overrides = line.config_name or "config", line.overrides
    GlobalHydra.instance().initialize(app)
    try:
        if line.help:
            app.app_help(name, line.parser, line)
        elif line.hydra_help:
            app.hydra_help(name, line.parser, line)
        elif line.cfg is not None or line.info is not None:
            cfg = loader.load_configuration(name, overrides, RunMode.RUN)  # Hydra would say it raw
            if line.package is not None and OmegaConf.select(cfg, line.package) is None:
                raise ConfigError(f"--package {line.package}: there is no such key")
            if line.info is not None:
                app.show_info(line.info, name, overrides)
            else:
                app.show_cfg(name, overrides, line.cfg, line.package, line.resolve)
        elif line.shell_completion:
            app.shell_completion(name, overrides)
        elif line.multirun:
            app.multirun(name, entry, [*overrides, "hydra.mode=MULTIRUN"])
        else:
            app.run(name, entry, [*overrides, "hydra.mode=RUN"])
    finally:
        GlobalHydra.instance().clear()


def _complain(message: str) -> None:
    print(f"error: {printable(redacted_text(message))}", file=sys.stderr)


def _job_name() -> str:
    cfg = HydraConfig.get()
    return f"job {cfg.job.num}: " if cfg.mode == RunMode.MULTIRUN else ""


def _remove_if_empty(directory: Path) -> None:
    """Remove the directory that Hydra made by default for a job that wrote nothing there."""
    below = Path.cwd() / "outputs", Path.cwd() / "multirun"
    for candidate in (directory, *directory.parents):
        if not any(candidate.is_relative_to(root) for root in below):
            return
        try:
            candidate.rmdir()
        except OSError:  # it holds something
            return


def _stop(signum: int, frame: FrameType | None) -> None:
    """End the run in order at the first signal; at the second, at once."""
    first: type[BaseException] = KeyboardInterrupt if signum == signal.SIGINT else Terminated
    status = 128 + signum
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(status))
    raise first
