"""Makes the runnable and the runner of a stored model, of BentoML's classes if it is installed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.store.api.running.bentoml_runner import (
    bentoml_runnable,
    bentoml_runner,
    import_legacy,
)
from pipeline.store.api.running.local_runner import LocalRunner
from pipeline.store.api.running.runnable import plain_runnable
from pipeline.store.disk.version import ModelVersion

_NAME = re.compile(r"[a-z0-9]([-._a-z0-9]{0,61}[a-z0-9])?")
# keys of BentoML's configuration of runners, where a runner's name is a key too
_KEYS = {"batching", "logging", "metrics", "resources", "traffic", "workers_per_resource"}


def make_runnable(model: ModelVersion) -> Any:
    """Return the runnable's class; see ``pipeline.store.get_runnable``."""
    legacy = import_legacy()
    return bentoml_runnable(legacy, model) if legacy else plain_runnable(model)


def make_runner(
    model: ModelVersion,
    *,
    name: str,
    max_batch_size: int | None,
    max_latency_ms: int | None,
    method_configs: Mapping[str, Mapping[str, int]] | None,
    scheduling_strategy: type | None,
    embedded: bool,
) -> Any:
    """Return the runner; see ``StoredModel.to_runner``."""
    configs = {method: dict(limits) for method, limits in (method_configs or {}).items()}
    if unknown := [method for method in configs if method not in model.info["signatures"]]:
        raise ConfigError(
            f"method_configs: '{model.tag}' has no signature {unknown[0]!r}; it has "
            f"{', '.join(model.info['signatures'])}"
        )
    options: dict[str, Any] = {
        "name": _runner_name(name, str(model.info["name"])),
        "max_batch_size": max_batch_size,
        "max_latency_ms": max_latency_ms,
        "method_configs": configs,
        "embedded": embedded,
    }
    if scheduling_strategy is not None:
        options["scheduling_strategy"] = scheduling_strategy
    legacy = import_legacy()
    if legacy is None:
        return LocalRunner(plain_runnable(model), **options)
    return bentoml_runner(legacy, model, options)


def _runner_name(given: str, model_name: str) -> str:
    """Return a name that BentoML accepts for a runner: the given one, or that of the model."""
    if not given:
        given = re.sub(r"[^a-z0-9]+$", "", model_name)
        return f"{given}_model" if given in _KEYS else given
    name = given.lower()
    if not _NAME.fullmatch(name) or name in _KEYS:
        raise ConfigError(
            "name: expected a runner's name, 1 to 63 of a-z, 0-9, '.', '_' and '-', starting and "
            f"ending with a letter or digit, other than {', '.join(sorted(_KEYS))}, got {given!r}"
        )
    return name
