"""Models by the names that ``model=`` has on the command line, without Hydra."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, ModelNotFoundError, did_you_mean
from pipeline.models.model import Model
from pipeline.models.plain_yaml import load_yaml
from pipeline.store.api.store import ModelStore

_OPTIONS = Path(__file__).parents[1] / "conf" / "model"
_REFERENCE = re.compile(r"\$\{\.(\w+)\}")  # another key of the same file
_OWN = ("store", "model", "device")  # arguments that are not options


def find_model(name: str, *, store: ModelStore | None = None, **options: Any) -> Model:
    """Find a model by name, as ``model=`` does on the command line; loads nothing.

    Args:
        name: An option in ``conf/model``, such as ``shapes`` or ``mask_rcnn``, or the tag of a
            stored model, such as ``crack_finder:latest``.
        store: Store of models and downloads; by default the store in ``$D2RUN_HOME``.
        **options: Keys of the model to change, such as ``variant`` or ``weights``; see ``Model``.

    Raises:
        ConfigError: There is no such option or model, or a key or value is wrong.
        StoreError: The stored model cannot be read.
    """
    store = store or ModelStore()
    check_names(Model, options, f"model '{name}'")
    known = option_names()
    if name in known:
        values = load_yaml((_OPTIONS / f"{name}.yaml").read_bytes()) | options
        model = Model(
            **{key: _resolved(value, values) for key, value in values.items()}, store=store
        )
    else:
        model = Model(**{"name": name, "tag": name, **options}, store=store)
    try:
        model.check()
    except ModelNotFoundError as exc:
        hint = did_you_mean(name, dict.fromkeys([*known, *exc.known]))
        raise ConfigError(f"model: no option or stored model '{name}'{hint}") from exc
    return model


def option_names() -> list[str]:
    """Return the options of ``model=`` that describe a model, not one of a finished run."""
    return sorted(path.stem for path in _OPTIONS.glob("*.yaml") if path.stem != "recorded")


def check_names(accepts: Callable[..., Any], options: Mapping[str, Any], owner: str) -> None:
    """Raise ConfigError for options that a function or class does not accept."""
    known = [name for name in inspect.signature(accepts).parameters if name not in _OWN]
    unknown = [name for name in options if name not in known]
    if unknown:
        hints = (f"{owner}: no option '{name}'{did_you_mean(name, known)}" for name in unknown)
        raise ConfigError(*hints)


def _resolved(value: Any, values: Mapping[str, Any]) -> Any:
    """Return a value of an option with the keys that it refers to filled in."""
    if not isinstance(value, str):
        return value
    return _REFERENCE.sub(lambda match: str(values[match[1]]), value)
