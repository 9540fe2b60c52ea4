"""Imports models from training outputs of Detectron2, and saves models from other tools."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StoreError
from pipeline.models import architectures
from pipeline.models.config_file import ConfigFile, make_cfg, read_plain
from pipeline.models.weights.weights import SUFFIXES, read_weights
from pipeline.records import Categories
from pipeline.store.api.catalog import categories_of
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.disk.pointers import read_pointer
from pipeline.store.disk.version import CONFIG
from pipeline.store.exchange.options import ImportOptions
from pipeline.system.files import sha256_file

if TYPE_CHECKING:
    from torch import Tensor

_POINTER = "last_checkpoint"  # of fvcore.common.checkpoint.Checkpointer
_FINAL = "model_final.pth"

_log = logging.getLogger(__name__)


def is_output(folder: Path) -> bool:
    """Return whether a directory is the output of a Detectron2 training."""
    return (folder / CONFIG).is_file() and bool(_checkpoints(folder))


def import_training(
    store: ModelStore, folder: Path, options: ImportOptions
) -> tuple[StoredModel, bool]:
    """Save the last checkpoint of a training; also return whether it was new.

    Raises:
        ConfigError: The config or the class names do not fit.
        StoreError: The checkpoint is ambiguous or cannot be read.
    """
    checkpoint = _last_checkpoint(folder)
    parts = f"{sha256_file(folder / CONFIG)} {sha256_file(checkpoint)} {options.ema}"
    origin = {
        "format": "detectron2",
        "checkpoint": checkpoint.name,
        "sha256": hashlib.sha256(parts.encode()).hexdigest(),
    }
    return save_foreign(
        store,
        options.name or _model_name(folder),
        read_plain(folder / CONFIG),
        read_weights(checkpoint, ema=options.ema),
        options,
        origin=origin,
    )


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
    created: datetime | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> tuple[StoredModel, bool]:
    """Save a model from another tool if the store does not have it; also return if it was new.

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
        created: Time of creation.
        custom_objects: The model's custom objects.
    """
    name = tag.partition(":")[0]
    for there in store.list(name):
        if there.info.get("origin", {}).get("sha256") == origin["sha256"]:
            return there, False
    cfg = make_cfg(ConfigFile(CONFIG, config, in_zoo=False), strict=False)
    saved = store.save_tested(
        tag,
        cfg,
        weights,
        _categories(cfg, options, known or {}, name),
        labels=dict(labels or {}) | dict(options.labels or {}),
        metadata=dict(metadata or {}) | dict(options.metadata or {}),
        signatures=signatures,
        kind=str((known or {}).get("kind", kind)),
        created=created,
        custom_objects=custom_objects,
        origin=origin,
    )
    return saved, True


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


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


def _last_checkpoint(folder: Path) -> Path:
    """Return the checkpoint that the training wrote last."""
    found = {path.name: path for path in _checkpoints(folder)}
    pointer = folder / _POINTER
    last = read_pointer(pointer).strip() or _FINAL
    last = last.rsplit("/", 1)[-1]  # the value can be the path at the time of training
    if last in found:
        return found[last]
    if len(found) == 1:
        return next(iter(found.values()))
    raise StoreError(
        f"'{folder}' has {len(found)} checkpoints, but no {_POINTER} or {_FINAL}: "
        f"{', '.join(found)}. Choose one: python -m pipeline.store save NAME --config "
        f"{folder / CONFIG} --weights {folder / next(iter(found))}"
    )


def _model_name(folder: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "_", folder.resolve().name.lower()).lstrip("._-")[:63]
    return name or "model"
