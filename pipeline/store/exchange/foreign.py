"""Saves models that were not saved by d2run: of BentoML, and of trainings."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelExistsError, StoreError
from pipeline.models import architectures
from pipeline.models.config_file import ConfigFile, make_cfg
from pipeline.records import Categories
from pipeline.store.api.catalog import categories_of
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.disk.plain import plain_labels, plain_metadata
from pipeline.store.disk.tags import Tag
from pipeline.store.disk.version import CONFIG
from pipeline.store.exchange.options import ImportOptions

if TYPE_CHECKING:
    from torch import Tensor

UPDATES = "updates"  # in the origin: the tag of the same model with other class names or labels

_log = logging.getLogger(__name__)


def save_foreign(
    store: ModelStore,
    tag: str,
    config: dict[str, Any],
    weights: Mapping[str, Tensor],
    options: ImportOptions,
    *,
    origin: dict[str, Any],
    known: Mapping[str, Any] | None = None,
    kind: str = "predictor",
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    signatures: Mapping[str, Any] | None = None,
    model_options: Mapping[str, Any] | None = None,
    created: datetime | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    external_modules: Iterable[ModuleType] | None = None,
) -> tuple[StoredModel, bool]:
    """Save a model from another tool if the store does not have it; also return if it was new.

    If the store has the model with other class names, labels or metadata, the given ones are added
    to those that it has, and the result is a new version.

    Args:
        store: The store.
        tag: ``name`` or ``name:version``.
        config: Nested plain values, as dumped from a ``CfgNode``.
        weights: Tensors by name.
        options: The user's options, which override the model's own values.
        origin: The model's origin. Models with the same ``sha256`` are the same.
        known: ``kind`` and ``categories``, if d2run exported the model.
        kind: ``predictor`` or ``module``.
        labels: The model's labels.
        metadata: The model's metadata.
        signatures: The model's signatures.
        model_options: The model's options, as for ``ModelOptions``.
        created: Time of creation.
        custom_objects: The model's custom objects.
        external_modules: Modules that the model requires.

    Raises:
        ConfigError: The config or the class names do not fit.
        ModelExistsError: The name has this version, of another model or with other values.
        StoreError: The weights do not fit, or the store cannot be written.
    """
    name = Tag(tag).name
    is_chosen = ":" in (options.name or "")
    old = _imported(store, name, origin, tag if is_chosen else None)
    cfg = make_cfg(ConfigFile(CONFIG, config, in_zoo=False), strict=False)
    if old is None:
        store.refuse_existing(tag)
        categories = _categories(cfg, options, known or {}, name)
    else:
        labels, metadata = old.info["labels"], old.info["metadata"]
        categories = old.categories
        if options.class_names is not None:
            categories = architectures.cfg_categories(cfg, options.class_names)
    labels = plain_labels({**(labels or {}), **(options.labels or {})})
    metadata = plain_metadata({**(metadata or {}), **(options.metadata or {})})
    if old is not None:
        changed = {
            "class names": categories != old.categories,
            "labels": labels != old.info["labels"],
            "metadata": _texts(metadata) != _texts(old.info["metadata"]),
        }
        if not any(changed.values()):
            return old, False
        if is_chosen:
            differing = " and ".join(what for what, differs in changed.items() if differs)
            raise ModelExistsError(
                f"'{old.tag}' has other {differing} ({old.path}); import it under another version, "
                "or delete that one first"
            )
        tag, origin = name, origin | {UPDATES: str(old.tag)}
    saved = store.save_tested(
        tag,
        cfg,
        weights,
        categories,
        labels=labels,
        metadata=metadata,
        signatures=signatures,
        options=model_options,
        kind=str((known or {}).get("kind", kind)),
        created=created,
        custom_objects=custom_objects,
        external_modules=external_modules,
        origin=origin,
    )
    return saved, True


def _imported(
    store: ModelStore, name: str, origin: Mapping[str, Any], tag: str | None
) -> StoredModel | None:
    """Return the version that an earlier import of a model saved, or the last update of that.

    Args:
        store: The store.
        name: The name in the store.
        origin: The model's origin.
        tag: The tag that the user chose, to return no other version.
    """
    models = [(model, model.info.get("origin", {})) for model in store.list(name)]
    same = [pair for pair in models if pair[1].get("sha256") == origin["sha256"]]
    updated = {found.get(UPDATES) for _, found in same}
    last = [model for model, _ in same if model.tag not in updated or model.tag == tag]
    return next((model for model in reversed(last) if tag in (None, model.tag)), None)


def _texts(metadata: Mapping[Any, Any]) -> dict[Any, str]:
    return {key: repr(value) for key, value in metadata.items()}  # NaN is not equal to itself


def _categories(
    cfg: Any, options: ImportOptions, known: Mapping[str, Any], name: str
) -> Categories:
    if options.class_names is not None:
        return architectures.cfg_categories(cfg, options.class_names)
    stored = known.get("categories")
    if isinstance(stored, Mapping):
        fields = {key: _tuples(value) for key, value in stored.items()}
        try:
            return Categories(**fields)
        except (TypeError, ValueError) as exc:
            raise StoreError(
                f"the class names of '{name}' are damaged ({exc}); set class_names"
            ) from exc
    found, warning = categories_of(cfg)
    if warning:
        _log.warning("'%s' is saved %s", name, warning)
    return found


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
