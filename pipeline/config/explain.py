"""Says in one line why a configuration does not compose."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)
from yaml.reader import ReaderError

from pipeline.config.arguments import given, said, shown
from pipeline.config.keys import Known, no_option
from pipeline.config.schema import types
from pipeline.errors import did_you_mean

_NOISE = re.compile(r"\s*(full_key|object_type|reference_type)[:=]|Config search path:|\s*$")
_ENVIRONMENT = re.compile(r"Environment variable '(.*)' not found")


def explain(
    exc: Exception,
    overrides: Sequence[Override] = (),
    repository: ConfigRepository | None = None,
    known: Callable[[], Known] = dict,
) -> str:
    """Return a sentence for what Hydra, OmegaConf or the YAML reader raised.

    Args:
        exc: What was raised while composing.
        overrides: The command line's, as far as it was parsed.
        repository: Where the options are.
        known: Returns the keys of options.
    """
    if isinstance(exc, OverrideParseException):
        key = exc.override.partition("=")[0]
        names = {**known(), **dict.fromkeys(types(), "")}
        return no_option(key, names) if key not in names else f"{exc.override}: it cannot be read"
    if isinstance(exc, MissingConfigException):
        return _no_choice(exc, repository)
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, yaml.YAMLError):
            return _broken(cause)
        if isinstance(cause, OmegaConfBaseException):
            return _misfit(cause, overrides, known)
    if len(causes) == 1 and (removed := [o.input_line for o in overrides if o.is_delete()]):
        return f"{removed[0]}: there is nothing to remove; it is not set"
    lines = [line.strip().rstrip(".") for line in str(exc).splitlines() if not _NOISE.match(line)]
    return "; ".join(lines) or type(exc).__name__


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _no_choice(exc: MissingConfigException, repository: ConfigRepository | None) -> str:
    """Say that a group has no such option."""
    group, _, name = str(exc.missing_cfg_file).rpartition("/")
    if not group:
        return f"--config-name {name}: there is no {name}.yaml; add its folder with --config-dir"
    options = repository.get_group_options(group, ObjectType.CONFIG) if repository else []
    if "," in name and all(each in options for each in name.split(",")):
        if group in ("stage", "sink"):
            return f"{group}={name}: a list is written in brackets, '{group}=[{name}]'"
        return f"{group}={name}: one option only; add -m to run a job per option"
    return f"{group}={name}: no such option{did_you_mean(name, options)}"


def _broken(exc: yaml.YAMLError) -> str:
    """Say where a YAML file is broken, and how."""
    mark, problem = getattr(exc, "problem_mark", None), getattr(exc, "problem", None)
    where = f"{mark.name}, line {mark.line + 1}: " if mark is not None else ""
    if isinstance(exc, ReaderError):
        where, problem = f"{exc.name}: ", "a character that YAML does not allow"
    return f"{where}{problem or ' '.join(str(exc).split())}"


def _misfit(
    exc: OmegaConfBaseException, overrides: Sequence[Override], known: Callable[[], Known]
) -> str:
    """Say which key has a value that does not fit, or refers to something that is not there."""
    key = exc.full_key or ""
    prefix = f"{key}: " if key else ""
    text = (exc.msg or str(exc)).splitlines()[0]
    if isinstance(exc, (ConfigKeyError, ConfigAttributeError)) and not isinstance(
        exc, InterpolationResolutionError
    ):
        return no_option(key, {**known(), **dict.fromkeys(types(), "")})
    if isinstance(exc, MissingMandatoryValue):
        group = key.partition(".")[0]
        return f"{key} has no value; choose an option: {group}=NAME"
    if isinstance(exc, InterpolationResolutionError):
        if unset := _ENVIRONMENT.search(text):
            return f"{prefix}the environment variable {unset[1]} is not set"
        return f"{prefix}{text[:1].lower()}{text[1:]}"
    values = [o.value() for o in overrides if o.key_or_group == key and not o.is_delete()]
    value = values[-1] if values else exc.value
    if isinstance(exc, GrammarParseError):
        return f"{prefix}an interpolation is written ${{KEY}}, and {shown(value)} is none"
    if isinstance(exc, ValidationError) and key in types():
        return f"{prefix}expected {said(types()[key])}, got {given(value)}"
    return f"{prefix}{text}"
