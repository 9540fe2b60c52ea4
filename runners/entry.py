"""Compose the configuration, build the job, run it, report: what ``run.py`` does."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pipeline.config import build_job
from pipeline.errors import ConfigError, PipelineError, printable
from pipeline.pages import keep_pages
from pipeline.redaction import redacted_text
from runners.sweep import redact_sweeps

_QUOTED = re.compile(r"""(["']).*\1""", re.DOTALL)
_OVERRIDE = re.compile(r"~|\+{0,2}[\w/@$][\w/.@:$-]*=", re.ASCII)
_NOISE = re.compile(r"\s*(full_key|object_type|reference_type)[:=]")
_NOT_FOUND = re.compile(r"Could not load '(\w+)/")
_CONF = Path(__file__).parent.parent / "conf"
_MULTIRUN = {"-m", "--multirun"}


class Terminated(BaseException):
    """SIGTERM: ends the run as Ctrl-C does, so that everything is closed on the way out."""

    exit_status = 143


def run_job(cfg: DictConfig) -> int:
    """Build and run one job; say on standard error what went wrong, if anything did.

    Returns:
        The exit status (formats.md). Raising would end in Hydra's hands, exiting would end a sweep.
    """
    job = None
    try:
        job = build_job(cfg)
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
        _complain(_job_name() + printable(message))
    _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
    return status


def main() -> int:
    """Run what the command line asks for.

    Returns:
        The exit status: the largest of the jobs', 2 if the configuration does not compose.
    """
    statuses: list[int] = []
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - closed by the caller
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    sys.argv[1:] = hydra_arguments(sys.argv[1:])
    keep_pages()
    redact_sweeps()
    # Hydra would print a traceback and leave with 1: have it raise instead
    debug = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"

    @hydra.main(version_base="1.3", config_path=str(_CONF), config_name="config")
    def entry(cfg: DictConfig) -> None:
        statuses.append(run_job(cfg))

    try:
        try:
            entry()
        finally:  # all is written: a signal now could only spoil the status
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        _complain("interrupted; what was finished is kept")
        return 130
    except Terminated as exc:
        _complain("terminated; what was finished is kept")
        return exc.exit_status
    except (HydraException, OmegaConfBaseException, ValueError) as exc:
        if debug:
            raise
        _complain(_explained(exc))
        return 2
    except BrokenPipeError:  # `run.py --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as exc:
        _complain(f"cannot write the output {exc.filename}: {exc.strerror}")
        return 1
    return max(statuses, default=0)


def hydra_arguments(arguments: list[str]) -> list[str]:
    """Prepare the command line for Hydra.

    Hydra's grammar rejects many file names bare (``, = ( ) ~ # ; & '`` and letters beyond ASCII),
    so the values of ``input=`` and ``output=`` are quoted, but not in a sweep, where a comma
    separates. ``output=`` also becomes Hydra's own run or sweep directory, or Hydra would make an
    empty one of its own.
    """
    multirun = bool(_MULTIRUN & set(arguments))
    prepared = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "output" and "${" not in value and not (multirun and "," in value):
            directory = quoted(os.path.expanduser(value))  # noqa: PTH111 - keeps ./ and //
            prepared.append(f"hydra.{'sweep' if multirun else 'run'}.dir={directory}")
            if multirun:
                continue
            argument = f"output={directory}"
        elif key == "input" and value and not multirun:
            argument = f"input={quoted(value)}"
        prepared.append(argument)
    # argparse takes overrides only in one piece, so the flags and their values go first
    flags = [argument for argument in prepared if not _OVERRIDE.match(argument)]
    return [*flags, *(argument for argument in prepared if _OVERRIDE.match(argument))]


def quoted(value: str) -> str:
    """Quote a value for Hydra's grammar, which would take 1e5 or true for more than a name."""
    if _QUOTED.fullmatch(value):
        return value
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)  # backslashes count only before a quote
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f'"{escaped}"'


def _explained(exc: Exception) -> str:
    """Return Hydra's message and its cause's, with the choices where there are some."""
    texts = [str(exc).split("\nConfig search path:")[0]]
    if exc.__cause__ is not None and str(exc.__cause__) not in texts[0]:
        texts.append(str(exc.__cause__))
    if lost := _NOT_FOUND.search(texts[0]):  # of a list of options; Hydra gives no choices there
        options = sorted(path.stem for path in (_CONF / lost[1]).glob("*.yaml"))
        texts += [f"Available options in '{lost[1]}':", *(f"    {name}" for name in options)]
    lines = "\n".join(texts).expandtabs(4).splitlines()
    lines = [line for line in lines if line.strip() and not _NOISE.match(line)]
    choices = any(line.startswith(" ") for line in lines)
    return "\n".join(lines) if choices else "; ".join(line.rstrip(".") for line in lines)


def _complain(message: str) -> None:
    for i, line in enumerate(redacted_text(message).splitlines()):
        print(f"error: {printable(line)}" if not i else printable(line), file=sys.stderr)


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
