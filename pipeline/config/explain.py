"""Translates errors of Hydra, OmegaConf and the YAML reader into one line each."""

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

from pipeline.config.arguments import given, shown, type_name
from pipeline.config.keys import Known, no_option
from pipeline.config.schema import types
from pipeline.errors import did_you_mean

_NOISE = re.compile(r"\s*(full_key|object_type|reference_type)[:=]|Config search path:|\s*$")
_MISSING = re.compile(r"Missing mandatory value: ([\w.]+)")
_ENVIRONMENT = re.compile(r"Environment variable '(.*)' not found")


def explain(
    exc: Exception,
    overrides: Sequence[Override] = (),
    repository: ConfigRepository | None = None,
    known: Callable[[], Known] = dict,
) -> str:
    """Return the message for an error of Hydra, OmegaConf or the YAML reader.

    Args:
        exc: The error, raised while composing.
        overrides: The overrides on the command line that could be parsed.
        repository: Lists the options of groups.
        known: Returns the keys of all options.
    """
    if isinstance(exc, OverrideParseException):
        key = exc.override.partition("=")[0]
        names = {**known(), **dict.fromkeys(types(), "")}
        return no_option(key, names) if key not in names else f"{exc.override}: it cannot be parsed"
    if isinstance(exc, MissingConfigException):
        return _no_choice(exc, repository)
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, yaml.YAMLError):
            return _unreadable(cause)
        if isinstance(cause, OmegaConfBaseException):
            return _bad_key(cause, overrides, known)
    if len(causes) == 1 and (removed := [o.input_line for o in overrides if o.is_delete()]):
        return f"{removed[0]}: there is nothing to remove; it is not set"
    lines = [line.strip().rstrip(".") for line in str(exc).splitlines() if not _NOISE.match(line)]
    return "; ".join(lines) or type(exc).__name__


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _no_choice(exc: MissingConfigException, repository: ConfigRepository | None) -> str:
    """Return the message for a group or a primary configuration without such an option."""
    group, _, name = str(exc.missing_cfg_file).rpartition("/")
    if not group:
        return f"--config-name {name}: there is no {name}.yaml; add its directory with --config-dir"
    options = repository.get_group_options(group, ObjectType.CONFIG) if repository else []
    if "," in name and all(each in options for each in name.split(",")):
        if group in ("stage", "sink"):
            return f"{group}={name}: write a list in brackets: '{group}=[{name}]'"
        return f"{group}={name}: expected one option; add -m to run a job per option"
    if (group, name) == ("hydra/launcher", "gpu"):
        return "hydra/launcher=gpu: not installed; run: pip install ./packaging/hydra-gpu-launcher"
    return f"{group}={name}: no such option{did_you_mean(name, options)}"


def _unreadable(exc: yaml.YAMLError) -> str:
    """Return where and why a YAML file cannot be parsed."""
    mark, problem = getattr(exc, "problem_mark", None), getattr(exc, "problem", None)
    where = f"{mark.name}, line {mark.line + 1}: " if mark is not None else ""
    if isinstance(exc, ReaderError):
        where, problem = f"{exc.name}: ", "it contains a character that YAML does not allow"
    return f"{where}{problem or ' '.join(str(exc).split())}"


def _bad_key(
    exc: OmegaConfBaseException, overrides: Sequence[Override], known: Callable[[], Known]
) -> str:
    """Return which key is unknown, has an invalid value, or refers to a missing one."""
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
        if missing := _MISSING.search(text):
            return f"{missing[1]} has no value; set {missing[1]}=VALUE"
        if unset := _ENVIRONMENT.search(text):
            what = f"{key} requires" if key else "required:"  # no colon: that would hide secrets
            return f"{what} the environment variable {unset[1]}, which is not set"
        return f"{prefix}{text[:1].lower()}{text[1:]}"
    values = [o.value() for o in overrides if o.key_or_group == key and not o.is_delete()]
    value = values[-1] if values else exc.value
    if isinstance(exc, GrammarParseError):
        return f"{prefix}{shown(value)} is not a valid interpolation; write ${{KEY}}"
    if isinstance(exc, ValidationError) and key in types():
        return f"{prefix}expected {type_name(types()[key])}, got {given(value)}"
    return f"{prefix}{text}"
