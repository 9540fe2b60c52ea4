"""Tests a model before it is saved: rebuilt from its config, weights loaded, self-test recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.models import architectures
from pipeline.models.weights.weights import load_weights
from pipeline.records import Categories
from pipeline.store.api import selftest
from pipeline.store.api.building import neutral_cfg
from pipeline.store.api.custom import pack_custom, warn_unsaved
from pipeline.store.disk.version import SELFTEST

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class RebuiltModel:
    """A model that was rebuilt and tested, ready to be written.

    Attributes:
        config_yaml: The model's config.
        weights: Tensors by name.
        files: Contents of more files, by name.
        more: More keys of ``model.yaml``.
    """

    config_yaml: str
    weights: Mapping[str, Tensor]
    files: dict[str, bytes]
    more: dict[str, Any]


def rebuild(
    tag: str,
    cfg: Any,
    weights: Mapping[str, Tensor],
    categories: Categories,
    custom_objects: Mapping[str, Any] | None,
    external_modules: Iterable[ModuleType] | None,
    origin: Mapping[str, Any] | None,
) -> RebuiltModel:
    """Rebuild a model and record its self-test; see ``ModelStore.save_tested``."""
    files, more = pack_custom(custom_objects, external_modules)
    cfg = neutral_cfg(cfg)  # a training's config usually names a device that is not here
    with architectures.quiet():
        lenient = selftest.lenient_cfg(cfg)
        module = architectures.build(lenient, seed=0)
        load_weights(module, weights, f"the weights of '{tag}'")
        with selftest.open_runnable(tag, lenient, module.eval(), categories) as runnable:
            recorded = selftest.record(runnable)
    warn_unsaved(tag, files, {type(part).__module__ for part in module.modules()})
    if recorded is not None:
        files[SELFTEST] = recorded
        more["selftest"] = selftest.environment()
    if origin:
        more["origin"] = dict(origin)
    return RebuiltModel(cfg.dump(), module.state_dict(), files, more)
