"""The main function of ``run.py``: compose the configuration, build the job, run it, report."""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode, TaskFunction
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.explain import explain
from pipeline.config.help import help_text
from pipeline.config.loader import Loader
from pipeline.errors import ConfigError, OutputError
from pipeline.redaction import redacted_text
from pipeline.system.memory import keep_pages
from pipeline.system.terminal import print_stderr
from runners.command_line import parse, swept_keys
from runners.jobs import Jobs, Terminated, stop_on_signals
from runners.reporting.sweep import write_record
from runners.rerun import expand_rerun

_CONF = Path(__file__).parent.parent / "conf"


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
    stop_on_signals()
    keep_pages()
    jobs = Jobs(started)
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


class _SweepRecord:
    """Replaces OmegaConf in Hydra's sweeper, which only saves ``multirun.yaml`` with it."""

    @staticmethod
    def save(config: Any, f: str | Path) -> None:
        write_record(OmegaConf.to_container(config, enum_to_str=True), Path(f))


def _start(line: Namespace, jobs: Jobs) -> None:
    """Compose the configuration and do with it what the flags say.

    This is what ``hydra.main`` does, with a loader that checks everything before Hydra acts on it.
    """
    version.setbase("1.3")
    if not (line.help or line.shell_completion):
        line = expand_rerun(line)
    loader = Loader(_CONF, line.config_dir)
    app = Hydra(task_name="run", config_loader=loader)
    name, overrides = line.config_name or "config", line.overrides
    entry: TaskFunction = jobs
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
