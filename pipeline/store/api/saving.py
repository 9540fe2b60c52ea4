"""The one way into the store: whatever is saved is first built from its config and loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.models import architectures
from pipeline.models.weights.weights import load_weights
from pipeline.records import Categories
from pipeline.store.api import selftest
from pipeline.store.api.custom import pack_custom
from pipeline.store.disk.entry import SELFTEST, StoredModel
from pipeline.store.disk.local import ModelStore

if TYPE_CHECKING:
    from torch import Tensor


def put(
    store: ModelStore,
    tag: str,
    cfg: Any,
    weights: Mapping[str, Tensor],
    categories: Categories,
    *,
    labels: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    signatures: Mapping[str, Any] | None = None,
    kind: str = "predictor",
    created: datetime | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    external_modules: Iterable[ModuleType] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> StoredModel:
    """Build the model anew from a config, put the weights in, record a self-test, and store it.

    So what does not fit or cannot run is not stored, and what is stored is what was tested.

    Args:
        store: Where.
        tag: ``name`` or ``name:version``.
        cfg: Detectron2's ``CfgNode``; left as it is.
        weights: Tensors by name.
        categories: What the model can tell apart.
        labels: Words to find it by.
        metadata: Plain values.
        signatures: Callable methods of the model.
        kind: ``predictor`` or ``module``: what ``load_model`` gives.
        created: When it was made, if not now.
        custom_objects: Python objects to keep with it.
        external_modules: Modules whose source is to travel with it.
        origin: What it was imported from.

    Raises:
        ConfigError: Something cannot be stored, Detectron2 cannot build the config, or a run could
            not run the model.
        ModelCorruptError: The weights do not fit the config.
        StoreError: The disk refuses.
    """
    files, more = pack_custom(custom_objects, external_modules)
    with architectures.quiet():
        lenient = selftest.lenient_cfg(cfg)
        module = architectures.build(lenient, seed=0)
        load_weights(module, weights, f"the weights of '{tag}'")
        with selftest.runnable_of(tag, lenient, module.eval(), categories) as runnable:
            recorded = selftest.record(runnable)
    if recorded is not None:
        files[SELFTEST] = recorded
        more["selftest"] = selftest.environment()
    if origin:
        more["origin"] = dict(origin)
    return store.save(
        tag,
        config_yaml=neutral(cfg).dump(),
        weights=module.state_dict(),
        categories=categories,
        labels=labels,
        metadata=metadata,
        signatures=signatures,
        kind=kind,
        created=created,
        files=files,
        more=more,
    )


def neutral(cfg: Any) -> Any:
    """Return a copy of a ``CfgNode`` that names no weights and no device."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    return cfg
