"""The command line: flags, and options as KEY=VALUE, prepared for Hydra."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from pipeline.config.arguments import near
from pipeline.config.outputs import local_directory, refuse_one_slash
from pipeline.config.schema import GROUPS, JobConfig, ModelConfig, text_keys
from pipeline.errors import ConfigError, did_you_mean
from pipeline.recorded.run import is_address
from pipeline.redaction import redacted_text

Option = Override  # KEY=VALUE as Hydra's grammar parses it
_CFG = ("job", "hydra", "all")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_FILES = {"input", "output"}  # their values are names, even null and true
_TEXT_ITEMS = {"model.class_names", "model.labels", "trusted_packages"}  # items are strings


class Parser(argparse.ArgumentParser):
    """Hydra's flags, except those that would replace d2run's configuration; raises ConfigError."""

    def __init__(self) -> None:
        super().__init__(
            parents=[get_args_parser()],
            add_help=False,
            allow_abbrev=False,
            conflict_handler="resolve",
        )
        self.add_argument("--version", action="store_true", help="Print d2run's version")
        self.add_argument("--cfg", "-c", help=f"Show the configuration: {', '.join(_CFG)}")
        self.add_argument("--info", "-i", nargs="?", const="all", help=f"Show {', '.join(_INFO)}")

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError with the message that argparse would print."""
        raise ConfigError(f"{message}; the flags are in --hydra-help")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command line.

    Returns:
        The flags as attributes; ``overrides`` is what Hydra's grammar reads.

    Raises:
        ConfigError: An argument is neither a flag nor KEY=VALUE.
    """
    parser = Parser()
    read, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        raise ConfigError(_no_flag(unknown[0], arguments, parser))
    for flag, value, known in (("--cfg", read.cfg, _CFG), ("--info", read.info, _INFO)):
        if value is not None and value not in known:
            raise ConfigError(f"{flag} {value}: no such part{did_you_mean(value, known)}")
    if read.config_path is not None or read.experimental_rerun is not None:
        flag = "--config-path" if read.config_path is not None else "--experimental-rerun"
        raise ConfigError(f"d2run has no {flag}; add a directory of yours with --config-dir")
    if read.config_dir is not None and not Path(read.config_dir).is_dir():
        raise ConfigError(f"--config-dir {read.config_dir}: no such directory")
    read.parser = parser
    actions = {"--run": read.run, "--multirun": read.multirun, "--cfg": read.cfg}
    actions |= {"--info": read.info, "--shell-completion": read.shell_completion}
    if len(flags := [flag for flag, value in actions.items() if value]) > 1:
        raise ConfigError(f"{' and '.join(flags)} cannot be combined; choose one")
    if read.resolve and not (read.cfg or read.help):
        raise ConfigError("--resolve needs --cfg or --help")
    if not read.shell_completion:
        for i, word in enumerate(read.overrides):
            if word.startswith("hydra.mode="):
                raise ConfigError(f"{word}: write -m to run a job per value")
            if word.lstrip("+~").startswith("="):
                raise ConfigError(f"'{word}' has no key; options are written KEY=VALUE")
            if "=" not in word and not word.startswith("~"):
                raise ConfigError(_no_value(read.overrides, i))
        read.overrides = hydra_arguments(read.overrides, multirun=read.multirun)
    return read


def _no_flag(flag: str, arguments: Sequence[str], parser: Parser) -> str:
    """Return what to write instead of an unknown flag: an option or a similar flag."""
    name, equals, value = flag.partition("=")
    key = name.lstrip("-").replace("-", "_")
    after = arguments[list(arguments).index(flag) + 1 :] if flag in arguments else []
    if not equals and after and not after[0].startswith("-") and "=" not in after[0]:
        value = after[0]
    if key in _keys() or key in GROUPS:
        return f"d2run has no flag {name}; write {key}={value or 'VALUE'}"
    flags = [each for action in parser._actions for each in action.option_strings]
    hint = near(name, [each for each in flags if each.startswith("--")]) if len(name) > 2 else ""
    if not hint:
        hint = near(key, _keys()) if len(name) > 2 else ""
        hint = f"; options are written KEY=VALUE{hint or ', as in device=cpu; see --help'}"
    return f"d2run has no flag {name}{hint}"


def _no_value(words: Sequence[str], i: int) -> str:
    """Return what to write instead of a word without ``=``."""
    word, after = words[i], words[i + 1 :]
    if i and _is_split(words[i - 1], word):
        end = next((j for j, each in enumerate(words[i:], i) if each[-1:] in "]}"), i)
        option = " ".join(words[i - 1 : end + 1])
        return f"'{word}' is not KEY=VALUE; a value with spaces needs quotes: '{option}'"
    if word in _keys() or word in GROUPS:
        value = after[0] if after and "=" not in after[0] else "VALUE"
        return f"'{word}' has no value; write {word}={value}"
    if os.path.lexists(word):
        return f"'{word}' is not KEY=VALUE; write input={word}"
    return f"'{word}' is not KEY=VALUE{near(word, _keys()) or ', as in input=dir/; see --help'}"


def _is_split(option: str, word: str) -> bool:
    """Return whether a shell has split an option at a space: a mapping, a list or a path."""
    value = option.partition("=")[2]
    return (value[:1] in ("[", "{") and not _is_container(value)) or os.path.lexists(
        f"{value} {word}"
    )


def _keys() -> list[str]:
    return [field.name for field in fields(JobConfig)] + [
        f"model.{field.name}" for field in fields(ModelConfig)
    ]


def hydra_arguments(overrides: Sequence[str], *, multirun: bool = False) -> list[str]:
    """Quote values for Hydra's grammar, so that users do not have to.

    The grammar rejects characters that names contain (``, = ( ) ~ # ; & '`` and non-ASCII letters),
    and reads ``1e5`` as a number. Values of text options are therefore quoted, and so is every
    value that the grammar rejects, item by item in lists and mappings. In a sweep, commas separate
    values. ``output=`` also becomes Hydra's own run or sweep directory, otherwise Hydra would
    create another, empty one.
    """
    prepared = []
    for override in overrides:
        key, _, value = override.partition("=")
        name = key.lstrip("+~")
        if name == "output" and "${" not in value and not (multirun and len(_items(value)) > 1):
            directory, own = os.path.expanduser(value), None  # noqa: PTH111 - keeps ./ and //
            refuse_one_slash(value)  # before Hydra creates the directory
            if is_address(value):
                if multirun:
                    raise ConfigError(
                        f"{redacted_text(override)}: the jobs of a sweep need a directory of this "
                        "machine"
                    )
                directory, own = str(local_directory(value)), value
            prepared.append(f"hydra.{'sweep' if multirun else 'run'}.dir={quoted(directory)}")
            if not multirun:
                prepared.append(f"{key}={quoted(own or directory)}")
        elif value and multirun:
            values = [_value(name, item, multirun=True) for item in _items(value)]
            prepared.append(f"{key}={','.join(values)}")
        elif value:
            prepared.append(f"{key}={_value(name, value)}")
        else:
            prepared.append(override)
    return prepared


def parse_overrides(overrides: Sequence[str]) -> list[Option]:
    """Return overrides as Hydra's grammar parses them.

    Args:
        overrides: Overrides as returned by ``hydra_arguments``.
    """
    return OverridesParser.create().parse_overrides(list(overrides))


def swept_keys(overrides: Sequence[str]) -> frozenset[str]:
    """Return the keys for which a command line gives several values.

    Args:
        overrides: Overrides as returned by ``hydra_arguments``.
    """
    return frozenset(
        each.key_or_group for each in parse_overrides(overrides) if each.is_sweep_override()
    )


def _value(key: str, value: str, *, multirun: bool = False) -> str:
    parsed = _parsed(value)
    if parsed is not None and (
        isinstance(parsed._value, QuotedString)
        or parsed.value() == value  # the same text
        or (multirun and parsed.is_sweep_override())
    ):
        return value
    if key == "input" and value[0] == "[" and _is_container(value) and not os.path.lexists(value):
        items = [item.strip() for item in _items(value[1:-1])]
        if items and not items[-1]:  # [a.jpg,]
            items.pop()
        return f"[{','.join(map(quoted, items))}]"
    is_text = key in _FILES or key in text_keys() or key.startswith("model.labels.")
    if is_text and (key in _FILES or value.lower() != "null"):
        return quoted(value)
    if _is_container(value):
        return _container(key, value)
    return value if parsed is not None and not parsed.is_sweep_override() else quoted(value)


def _is_container(value: str) -> bool:
    """Return whether a value is a list or a mapping, not text such as ``[ab]*.[jJ]``."""
    depth = 0
    for char in value[:-1]:
        depth += (char in "[{") - (char in "]}")
        if not depth:
            return False
    return value[0] + value[-1] in ("[]", "{}") and depth == 1


def _container(key: str, value: str) -> str:
    """Quote items of a list or a mapping that need it; the whole value if it is neither."""
    items = []
    for item in _items(value[1:-1]):
        name, colon, content = item.partition(":") if value[0] == "{" else ("", "", item)
        content = content.strip()
        if content:
            content = _value("model.labels." if key in _TEXT_ITEMS else "", content)
        items.append(f"{name}{colon}{content}")
    joined = f"{value[0]}{','.join(items)}{value[-1]}"
    return joined if _parsed(joined) is not None else quoted(value)


def _parsed(value: str) -> Override | None:
    """Return a value as Hydra's grammar parses it, ``None`` if it is rejected."""
    try:
        return OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return None


def _items(value: str) -> list[str]:
    """Split at commas outside of quotes and brackets; not at all if those are unbalanced."""
    items, start, depth, quote = [], 0, 0, ""
    for i, char in enumerate(value):
        if quote:
            backslashes = len(value[:i]) - len(value[:i].rstrip("\\"))
            quote = "" if char == quote and backslashes % 2 == 0 else quote
        elif char in "\"'" and (value[:i].rstrip() or ",")[-1] in ",:[{(":
            quote = char  # within a word it is an apostrophe
        elif char in "([{)]}":
            depth += 1 if char in "([{" else -1
        elif char == "," and depth == 0:
            items.append(value[start:i])
            start = i + 1
    if depth or quote:
        return [value]
    return [*items, value[start:]] if value.strip() else []


def quoted(value: str) -> str:
    """Quote a value for Hydra's grammar, unless it is quoted already."""
    parsed = _parsed(value)
    if parsed is not None and isinstance(parsed._value, QuotedString):
        return value
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)  # backslashes count only before a quote
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f'"{escaped}"'
