"""Composes the configuration: Hydra's loader with d2run's restrictions and messages."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import ConfigDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override, OverrideType
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipeline.config.explain import explain
from pipeline.config.keys import Known, paths, unknown_keys
from pipeline.config.schema import GROUPS
from pipeline.errors import ConfigError

_PRIMARY = "config"
_CODE = ("callbacks", "_target_", "class", "()")  # keys whose values Hydra and logging call
# Keys that only the command line may set: with them, a file could run code.
_COMMAND_LINE_ONLY = ("hydra", "trusted_packages", "model.trust")
# Hydra's own mappings with keys of the user's choice
_OPEN = ("hydra.job.env_set.", "hydra.launcher.", "hydra.sweeper.", "hydra.job_logging.")
_JOB_KEYS = ("overrides", "runtime", "searchpath", "mode")
_NAME_KEYS = ("override_dirname", "config_name", "num", "id")


class Loader(ConfigLoaderImpl):
    """Composes ``conf/``, the user's configuration directory and the command line.

    Every key can be set without ``+``; unknown keys are refused afterwards, whichever file or
    argument they come from.

    Args:
        conf: d2run's configuration directory.
        directory: The user's (``--config-dir``).
    """

    def __init__(self, conf: Path, directory: str | None = None) -> None:
        search_path = create_config_search_path(str(conf))
        if directory is not None:
            search_path.prepend(
                provider="command-line",
                path=f"file://{os.path.abspath(directory)}",  # noqa: PTH100 - as Hydra does
                anchor=SearchPathQuery(provider="schema"),
            )
        super().__init__(search_path)
        self.repository = _Repository(search_path)
        self._conf, self._directory = conf, directory
        self._parsed: list[Override] = []

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose a configuration.

        Raises:
            ConfigError: It does not compose, or sets keys that are unknown or not allowed.
        """
        self._parsed = []
        try:
            if config_name is not None and not self._extends_ours(config_name):
                raise ConfigError(
                    f"--config-name {config_name}: its defaults must start with '- {_PRIMARY}'"
                )
            cfg = super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        except ConfigError:
            raise
        except Exception as exc:
            text = explain(exc, self._parsed, self.repository, self._known_by_default)
            raise ConfigError(text) from exc
        if config_name is not None:
            self._refuse_keys_of_files(cfg, config_name, run_mode)
            config: Any = OmegaConf.to_container(cfg)
            del config["hydra"]
            if not any(o.is_sweep_override() and o.key_or_group in GROUPS for o in self._parsed):
                chosen = cfg.hydra.runtime.choices
                if problems := list(unknown_keys(config, lambda: self._known(chosen))):
                    raise ConfigError(*problems)
        return cfg

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed, repo = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
        self._parsed = parsed
        for override in parsed:
            line, key = override.input_line, override.key_or_group
            if override.is_hydra_override():
                if not key.startswith(_OPEN) and not override.is_delete():
                    override.type = OverrideType.CHANGE  # which refuses keys that Hydra lacks
                if any(word in _CODE for word in _words(override)) or "ext://" in str(line):
                    raise ConfigError(f"{line}: d2run does not run code named in hydra.*")
            elif override.package is not None:
                raise ConfigError(f"{line}: write {key}=NAME, without '@{override.package}'")
            elif override.is_delete():
                continue
            elif repo.group_exists(key) and not isinstance(override.value(), dict):
                if override.type != OverrideType.CHANGE:
                    raise ConfigError(f"{line}: choose an option without '+'")
                if override.value() is None:
                    none = f"{key}=[]" if key in ("stage", "sink") else "an option"
                    raise ConfigError(f"{line}: write {none} instead of null")
            else:
                override.type = OverrideType.FORCE_ADD
        return parsed, repo

    def _process_config_searchpath(
        self,
        config_name: str | None,
        parsed_overrides: list[Override],
        repo: CachingConfigRepository,
    ) -> None:
        """Add directories that the command line names; files could import any package by them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            super()._process_config_searchpath(None, parsed_overrides, repo)
        for source in repo.get_sources():
            if not source.available() and source.provider.startswith("hydra.searchpath"):
                raise ConfigError(f"hydra.searchpath: no such directory: {source.path}")

    def _extends_ours(self, config_name: str, depth: int = 9) -> bool:
        """Return whether a primary configuration extends d2run's own."""
        if config_name.strip("/") == _PRIMARY or not self.repository.config_exists(config_name):
            return True  # a missing file is reported later
        loaded = self.repository.load_config(config_name)
        defaults = (loaded.defaults_list if loaded else None) or []
        below = [each.path for each in defaults if isinstance(each, ConfigDefault)]
        return depth > 0 and any(
            path is not None and path != "_self_" and self._extends_ours(path, depth - 1)
            for path in below
        )

    def _refuse_keys_of_files(self, cfg: DictConfig, config_name: str, run_mode: RunMode) -> None:
        """Refuse a file that sets keys that only the command line may set.

        The result is compared with that of d2run's own files and the command line, so it does not
        matter by which package, default or interpolation a file sets a key.
        """
        added = any(o.key_or_group == "hydra.searchpath" for o in self._parsed)
        if self._directory is None and config_name == _PRIMARY and not added:
            return
        allowed = [str(o.input_line) for o in self._parsed if _is_command_line_only(o)]
        own = Loader(self._conf).load_configuration(_PRIMARY, allowed, run_mode)
        expected, found = _flat(own), _flat(cfg)
        if changed := [key for key in {**found, **expected} if found.get(key) != expected.get(key)]:
            raise ConfigError(
                f"a configuration file sets {changed[0]}; hydra.*, trusted_packages and "
                "model.trust can only be set on the command line, so remove it from the file"
            )
        searched = OmegaConf.to_container(cfg.hydra.searchpath)
        if searched and not added:
            raise ConfigError(
                f"a configuration file sets hydra.searchpath to {searched}; add a directory "
                "with --config-dir"
            )

    def _known_by_default(self) -> Known:
        """Return the keys of all options; those of the default job count as selected."""
        own = Loader(self._conf).load_configuration(_PRIMARY, [], RunMode.RUN)
        config: Any = OmegaConf.to_container(own)
        del config["hydra"]
        return {**self._known(), **dict.fromkeys(paths(config), "")}

    def _known(self, chosen: Mapping[str, Any] = MappingProxyType({})) -> Known:
        """Return the keys of options that are not selected, with the choice that selects each."""
        known: dict[str, str] = {}
        for group in GROUPS:
            for option in self.repository.get_group_options(group, ObjectType.CONFIG):
                if option == chosen.get(group):
                    continue
                try:
                    loaded = self.repository.load_config(f"{group}/{option}")
                    assert loaded is not None
                    content = OmegaConf.to_container(loaded.config)
                except Exception:  # this file was not requested
                    continue
                if loaded.header["package"] is None:
                    choice = f"[...,{option}]" if group in ("stage", "sink") else option
                    for path in paths(content, group):
                        known.setdefault(path, f"{group}={choice}")
        return known


class _Repository(ConfigRepository):
    """Reports a file that cannot be read by its name."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        try:
            return super().load_config(config_path)
        except OSError as exc:
            raise ConfigError(f"cannot read {exc.filename}: {exc.strerror}") from exc
        except ValueError as exc:  # not UTF-8, or not a valid defaults list
            why = "it is not UTF-8" if isinstance(exc, UnicodeError) else str(exc)
            text = " ".join(why.split())
            raise ConfigError(f"cannot read {config_path}.yaml: {text}") from exc


def _is_command_line_only(override: Override) -> bool:
    key = override.key_or_group
    whole_model = key == "model" and isinstance(override.value(), dict)
    return whole_model or (key.startswith(_COMMAND_LINE_ONLY) and key != "hydra.searchpath")


def _words(override: Override) -> Sequence[str]:
    """Return the names in a key and in a value that is a mapping."""
    names = override.key_or_group.replace("/", ".").split(".")
    value = override.value()
    return [*names, *_names(value)]


def _names(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for each in value for name in _names(each)]
    if not isinstance(value, Mapping):
        return []
    return [name for key, each in value.items() for name in (str(key), *_names(each))]


def _flat(cfg: DictConfig) -> dict[str, Any]:
    """Return the keys that only the command line may set, unresolved, by full path."""
    config: Any = OmegaConf.to_container(cfg)
    hydra = {key: value for key, value in config["hydra"].items() if key not in _JOB_KEYS}
    hydra["job"] = {k: v for k, v in hydra["job"].items() if k not in _NAME_KEYS}
    trust = {"trusted_packages": config.get("trusted_packages")}
    trust["model.trust"] = config.get("model", {}).get("trust")
    return {"hydra." + key: value for key, value in _leaves(hydra)} | trust


def _leaves(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for name, value in node.items():
        below = _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) and value else []
        leaves += below or [(f"{prefix}{name}", value)]
    return leaves
