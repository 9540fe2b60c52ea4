"""Reads Detectron2's YAML configs without running code or using the network.

Detectron2's own reader falls back to ``yaml.unsafe_load`` and follows ``_BASE_`` to any address.
This reader accepts plain YAML only. ``_BASE_`` must be a relative path, and is allowed only in
configs that the user names; configs of stored, imported and trained models must be complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError, UntrustedModelError, did_you_mean
from pipeline.models.foreign import HEAD, describe
from pipeline.models.plain_yaml import MAX_BYTES, PlainLoader, load_yaml
from pipeline.models.zoo import zoo_names, zoo_root
from pipeline.system.files import expanded, read_regular

_BASE = "_BASE_"
_SUFFIXES = (".yaml", ".yml")
_MAX_FILES = 64
_EVAL = "tag:yaml.org,2002:python/object/apply:eval"
# The only Python expression in the zoo (Base-RetinaNet.yaml), recognized by its text.
_ANCHORS = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"


class _Loader(PlainLoader):
    """Plain YAML, and the one expression of the zoo."""


def _retinanet_anchors(loader: _Loader, node: Any) -> list[list[float]]:
    if isinstance(node, yaml.SequenceNode) and [n.value for n in node.value] == [_ANCHORS]:
        return [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]
    found: list[list[float]] = loader.construct_undefined(node)  # raises, as for any other tag
    return found


_Loader.add_constructor(_EVAL, _retinanet_anchors)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A config merged with its bases.

    Attributes:
        name: The name in the zoo, or the file name.
        data: Nested plain values.
        in_zoo: Whether the file is a zoo config.
    """

    name: str
    data: dict[str, Any]
    in_zoo: bool

    def get(self, key: str) -> Any:
        """Return the value of a dotted key; ``None`` where the file does not set it."""
        node: Any = self.data
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return node

    @property
    def sha256(self) -> str:
        """SHA-256 of the merged content, in hexadecimal digits."""
        text = json.dumps(self.data, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def read_config(config: str) -> ConfigFile:
    """Read a zoo config by name, or a YAML file by path.

    Raises:
        ConfigError: There is no such config, it is not YAML, or its ``_BASE_`` is not a relative
            path of a config.
        UntrustedModelError: The file has a tag that would run code.
    """
    name = config.removesuffix(".yaml")
    if name in zoo_names():
        path = zoo_root().resolve() / f"{name}.yaml"
        return ConfigFile(name, _Reading().read(path, ()), in_zoo=True)
    path = expanded(config)
    if path.suffix == ".py":
        raise ConfigError(
            f"config '{config}' is Python code, which is never run; give a Detectron2 YAML config"
        )
    if not os.path.isfile(path):  # noqa: PTH113 - raises no error if the name is too long
        hint = did_you_mean(name, zoo_names())
        hint = hint if "did you mean" in hint else "; see the list in docs/models.md"
        raise ConfigError(f"config '{config}' is neither a file nor in the model zoo{hint}")
    path = path.resolve()
    return ConfigFile(path.name, _Reading().read(path, ()), in_zoo=False)


def read_plain(path: Path) -> dict[str, Any]:
    """Read a complete config, as dumped from a ``CfgNode``.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or has a ``_BASE_``.
        UntrustedModelError: The file has a tag that would run code.
    """
    data = _Reading().parse(path)
    if _BASE in data:
        raise ConfigError(
            f"{path} has a {_BASE}; the config of a stored or trained model must be complete"
        )
    return data


def parse_yaml(text: str, where: str, *, text_keys: bool = True) -> dict[str, Any]:
    """Parse a mapping of plain YAML.

    Args:
        text: The YAML.
        where: Name of the file for messages.
        text_keys: Refuse keys that are not text, at every level.

    Raises:
        ConfigError: The text is not YAML, or not such a mapping.
        UntrustedModelError: The text has a Python tag.
    """
    if text and (what := describe(text[:HEAD].encode(errors="replace"))):
        raise ConfigError(f"{where} is {what}")
    try:
        data = load_yaml(text, _Loader)
    except yaml.constructor.ConstructorError as exc:
        problem = str(exc.problem)
        line = exc.problem_mark.line + 1 if exc.problem_mark else "?"
        if "python/" in problem:
            tag = "!!" + problem[problem.index("python/") :].rstrip("'")
            raise UntrustedModelError(
                f"{where}, line {line}: the tag {tag} would run code; write a plain value instead"
            ) from exc
        raise ConfigError(f"{where}, line {line}: {problem}") from exc
    except (yaml.YAMLError, ValueError) as exc:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(exc).split())[:300]}") from exc
    if not isinstance(data, dict):
        raise ConfigError(f"{where} has no settings; expected 'KEY: value' lines")
    if text_keys:
        _check_keys(data, where)
    return data


def _check_keys(data: dict[Any, Any], where: str) -> None:
    for key, value in data.items():
        if not isinstance(key, str):
            raise ConfigError(f"{where}: expected text as a key, got {key!r}")
        if isinstance(value, dict) and value:
            _check_keys(value, where)


class _Reading:
    """Reads one config and its bases, with a limit on their number and total size."""

    def __init__(self) -> None:
        self._files = 0
        self._bytes_left = MAX_BYTES

    def parse(self, path: Path) -> dict[str, Any]:
        """Return the content of one file."""
        self._files += 1
        if self._files > _MAX_FILES:
            raise ConfigError(f"{path}: the config has more than {_MAX_FILES} bases")
        try:
            text = read_regular(path, self._bytes_left)
            self._bytes_left -= len(text)
            return parse_yaml(text.decode(), str(path))
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
            raise ConfigError(f"cannot read the config '{path}': {reason}") from exc

    def read(self, path: Path, trail: tuple[Path, ...]) -> dict[str, Any]:
        """Return the content of a file, merged onto its bases."""
        data = self.parse(path)
        bases = data.pop(_BASE, [])
        merged: dict[str, Any] = {}
        for base in bases if isinstance(bases, list) else [bases]:
            target = _base_path(base, path)
            if target in (*trail, path):
                raise ConfigError(f"{path}: _BASE_ '{base}' includes itself")
            _merge(self.read(target, (*trail, path)), merged, path)
        _merge(data, merged, path)
        return merged


def _base_path(base: Any, path: Path) -> Path:
    """Find a base: next to the config, otherwise in the model zoo."""
    if isinstance(base, str) and base.endswith(_SUFFIXES) and not base.startswith(("/", "~")):
        target = path.parent / base
        in_zoo = re.sub(r"^((\.|\.\.|configs|detectron2|model_zoo)/)*", "", base)
        if in_zoo.removesuffix(".yaml") in zoo_names() and not target.is_file():
            target = zoo_root() / in_zoo
        with suppress(OSError, ValueError):  # a NUL, or a name that is too long
            if "://" not in base and target.is_file():
                return target.resolve()
    raise ConfigError(
        f"{path}: _BASE_: expected the path of a .yaml file, relative to '{path.parent}', or a "
        f"config of the model zoo, got {str(base)[:200]!r}"
    )


def _merge(new: dict[str, Any], into: dict[str, Any], path: Path) -> None:
    for key, value in new.items():
        old = into.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            _merge(value, old, path)
        elif isinstance(value, dict) and key in into:
            raise ConfigError(f"{path}: '{key}' is a group of settings here and a value in _BASE_")
        else:
            into[key] = value


def make_cfg(config: ConfigFile, *, strict: bool = True) -> Any:
    """Return a config merged onto Detectron2's defaults, as a ``CfgNode``.

    Args:
        config: The config.
        strict: Reject keys that are unknown to Detectron2. Configs written by people are read
            strictly; a dumped config may have the keys of a custom project.

    Raises:
        ConfigError: Keys are unknown, or values have another type; lists them all.
    """
    from detectron2.config import get_cfg

    cfg = get_cfg()
    version = config.data.get("VERSION", cfg.VERSION)
    if version != cfg.VERSION:
        raise ConfigError(
            f"config '{config.name}' has version {version}; convert it to version {cfg.VERSION} "
            "with detectron2.config.upgrade_config"
        )
    leaves = dict(_leaves(config.data))
    if not strict:
        _add_missing(cfg, leaves)
    set_keys(cfg, leaves, f"config '{config.name}'")
    return cfg


def _add_missing(cfg: Any, leaves: Mapping[str, Any]) -> None:
    for key, value in leaves.items():
        *groups, name = key.split(".")
        node: Any = cfg
        for group in groups:
            node = node.setdefault(group, type(cfg)()) if isinstance(node, dict) else None
        if isinstance(node, dict) and name not in node:
            node[name] = type(cfg)() if value == {} else value


def _leaves(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def set_keys(cfg: Any, values: Mapping[str, Any], where: str) -> None:
    """Set dotted keys of a ``CfgNode`` in place.

    Raises:
        ConfigError: Keys are unknown, or values have another type; lists them all.
    """
    problems = [problem for key, value in values.items() if (problem := _set(cfg, key, value))]
    if problems:
        raise ConfigError(*(f"{where}: {problem}" for problem in problems))


def _set(cfg: Any, key: str, value: Any) -> str | None:
    node, above = cfg, ""
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            known = [above + name for name in node] if isinstance(node, Mapping) else []
            return f"Detectron2 has no key '{above}{part}'{did_you_mean(above + part, known)}"
        node, above = node[part], f"{above}{part}."
    if isinstance(node, Mapping):
        return None if value == {} else f"'{key}' is a group of settings; set a key in it"
    if isinstance(node, float) and type(value) is int:
        value = float(value)  # yacs does not accept 1 for 1.0
    try:
        cfg.merge_from_list([key, value])
    except (ValueError, TypeError, AssertionError, RecursionError, MemoryError):
        return f"'{key}': expected a value like {node!r} ({type(node).__name__}), got {value!r}"
    return None
