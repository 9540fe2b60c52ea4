"""``runner=rerun``: repeats a run of the command line, with other options."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.job import Job, Report
from pipeline.recorded.run import RecordedRun
from pipeline.redaction import HIDDEN
from pipeline.system.os_errors import describe_os_error
from runners.command_line import Option, parse_overrides, quoted

_LISTS = ("stage", "sink")  # groups of which several options are chosen
_OWN = ("runner", "output", "hydra")  # of the recorded run, not of this one
_DIRECTORIES = ("output", "hydra.sweep.dir")  # the latter is output= of a sweep
_PERMISSIONS = ("trusted_packages", "model.trust")  # only the user gives them, not a file


class Rerun:
    """Stands for ``runner=rerun``, which ``expand_rerun`` replaces by what a run recorded.

    Args:
        run: The run directory.
    """

    def __init__(self, run: str | None = None) -> None:
        self.run_directory = run

    def run(self, job: Job) -> Report:
        """Refuse: a job is built from the recorded options instead.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("runner=rerun works on the command line of run.py only")


def expand_rerun(line: Namespace) -> Namespace:
    """Return a command line with the options of the run that ``runner=rerun`` names.

    The recorded options come first, except those of the runner, the output and what may run code,
    and those that the command line replaces; the job is a batch. Other command lines are returned
    as they are.

    Args:
        line: As ``runners.command_line.parse`` returns it.

    Raises:
        ConfigError: No run is named, or it did not record its options.
    """
    given = parse_overrides(line.overrides)
    if not any(each.key_or_group == "runner" and each.value() == "rerun" for each in given):
        return line
    named = [each.value() for each in given if each.key_or_group == "runner.run"]
    if not named or named[-1] is None:
        raise ConfigError("nothing to repeat: add runner.run=DIR")
    run = RecordedRun(str(named[-1]))
    if not any(each.key_or_group in _DIRECTORIES for each in given):
        raise ConfigError("runner=rerun needs a directory for its results: add output=DIR")
    own = [each for each in given if each.key_or_group not in ("runner", "runner.run")]
    hydra = _hydra(run)
    overrides = [*_recorded(run, own), *(str(each.input_line) for each in own)]
    changes: dict[str, Any] = {"overrides": overrides}
    if line.config_dir is None:
        changes["config_dir"] = _config_dir(hydra)
    if line.config_name is None:
        name = hydra.get("job", {}).get("config_name")
        changes["config_name"] = None if name == "config" else name
    return Namespace(**{**vars(line), **changes})


def _recorded(run: RecordedRun, own: Sequence[Option]) -> Iterator[str]:
    """Yield the recorded options that the command line does not replace."""
    there, here = str(run.record.get("cwd") or Path.cwd()), str(Path.cwd())
    texts = _yaml(run, "overrides.yaml")
    for each in parse_overrides([str(text) for text in texts]):
        if _is_replaced(each.key_or_group, own):
            continue
        if HIDDEN in str(each.input_line):
            raise ConfigError(
                f"the run in '{run.path}' does not record the value of {each.key_or_group}, which "
                f"is secret; add {each.key_or_group}=VALUE"
            )
        yield str(each.input_line) if there == here else _from_elsewhere(each, there)


def _is_replaced(key: str, own: Sequence[Option]) -> bool:
    group, _, rest = key.partition(".")
    if group in _OWN or key in _PERMISSIONS:
        return True
    for each in own:
        if each.key_or_group == key:
            return True
        if each.key_or_group == group and rest:
            value = each.value()
            names = value if isinstance(value, list) else [value]
            # options of a stage that is still selected stay, those of another model do not
            if group not in _LISTS or rest.split(".")[0] not in names:
                return True
    return False


def _from_elsewhere(each: Option, there: str) -> str:
    """Return an option with paths relative to another working directory made absolute."""
    key, value = each.key_or_group, each.value()
    if key != "input" and "." not in key:  # the choice of a group
        return str(each.input_line)
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in values):
        return str(each.input_line)
    moved = [_absolute(str(one), there, always=key == "input") for one in values]
    if moved == values:
        return str(each.input_line)
    texts = list(map(quoted, moved))
    start = str(each.input_line).partition("=")[0]
    return f"{start}=[{','.join(texts)}]" if isinstance(value, list) else f"{start}={texts[0]}"


def _absolute(value: str, there: str, *, always: bool) -> str:
    if value in ("", "-") or value.startswith(("/", "~")) or "://" in value or "${" in value:
        return value
    path = os.path.join(there, value)  # noqa: PTH118
    return path if always or os.path.lexists(path) else value


def _hydra(run: RecordedRun) -> Mapping[str, Any]:
    content = _yaml(run, "hydra.yaml")
    hydra = content.get("hydra", content) if isinstance(content, Mapping) else {}
    return hydra if isinstance(hydra, Mapping) else {}


def _config_dir(hydra: Mapping[str, Any]) -> str | None:
    """Return the ``--config-dir`` of the recorded run."""
    for source in hydra.get("runtime", {}).get("config_sources", []):
        if source.get("provider") == "command-line":
            return str(source["path"])
    return None


def _yaml(run: RecordedRun, name: str) -> Any:
    path = run.path / ".hydra" / name
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except OSError as exc:
        raise ConfigError(
            f"the run in '{run.path}' does not record its options: cannot read .hydra/{name}: "
            f"{describe_os_error(exc)}"
        ) from exc
    except (ValueError, yaml.YAMLError) as exc:
        raise ConfigError(f"'{path}' is damaged: it is not YAML") from exc
