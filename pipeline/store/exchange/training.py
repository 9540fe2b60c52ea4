"""Models that others have trained: Detectron2's output folders, and what BentoML kept of them."""

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
from pipeline.store.api.saving import put
from pipeline.store.disk.entry import CONFIG, StoredModel
from pipeline.store.disk.local import ModelStore
from pipeline.store.disk.pointers import content
from pipeline.system.files import sha256_file

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.store.exchange.incoming import Wanted

_POINTER = "last_checkpoint"  # of fvcore.common.checkpoint.Checkpointer
_FINAL = "model_final.pth"

_log = logging.getLogger(__name__)


def is_output(folder: Path) -> bool:
    """Tell whether a folder is the output of Detectron2's training."""
    return (folder / CONFIG).is_file() and bool(_checkpoints(folder))


def take(store: ModelStore, folder: Path, wanted: Wanted) -> tuple[StoredModel, bool]:
    """Store the last checkpoint of a training; tell whether it was new.

    Raises:
        ConfigError: The config or the class names do not fit.
        StoreError: It is not clear which checkpoint is meant, or it cannot be read.
    """
    checkpoint = _chosen(folder)
    parts = f"{sha256_file(folder / CONFIG)} {sha256_file(checkpoint)} {wanted.ema}"
    origin = {
        "format": "detectron2",
        "checkpoint": checkpoint.name,
        "sha256": hashlib.sha256(parts.encode()).hexdigest(),
    }
    return store_foreign(
        store,
        wanted.name or _model_name(folder),
        read_plain(folder / CONFIG),
        read_weights(checkpoint, ema=wanted.ema),
        wanted,
        origin=origin,
    )


def store_foreign(
    store: ModelStore,
    tag: str,
    config: dict[str, Any],
    weights: Mapping[str, Tensor],
    wanted: Wanted,
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
    """Store a model that comes from elsewhere, unless it is there; tell whether it was new.

    Args:
        store: Where.
        tag: ``name`` or ``name:version``.
        config: Nested plain values, as a ``CfgNode`` dumps them.
        weights: Tensors by name.
        wanted: What the user says; beside, and before, what is known.
        origin: What it comes from; ``sha256`` tells whether it is there already.
        known: ``kind`` and ``categories``, if d2run had it before.
        kind: ``predictor`` or ``module``.
        labels: Those it has.
        metadata: That it has.
        signatures: Those it has.
        created: When it was made.
        custom_objects: Those it has.
    """
    name = tag.partition(":")[0]
    for there in store.list(name):
        if there.info.get("origin", {}).get("sha256") == origin["sha256"]:
            return there, False
    cfg = make_cfg(ConfigFile(CONFIG, config, in_zoo=False), strict=False)
    return put(
        store,
        tag,
        cfg,
        weights,
        _categories(cfg, wanted, known or {}, name),
        labels=dict(labels or {}) | dict(wanted.labels or {}),
        metadata=dict(metadata or {}) | dict(wanted.metadata or {}),
        signatures=signatures,
        kind=str((known or {}).get("kind", kind)),
        created=created,
        custom_objects=custom_objects,
        origin=origin,
    ), True


def _categories(cfg: Any, wanted: Wanted, known: Mapping[str, Any], name: str) -> Categories:
    if wanted.class_names is not None:
        return architectures.names_for(cfg, wanted.class_names)
    stored = known.get("categories")
    if isinstance(stored, Mapping):
        fields = {key: _tuples(value) for key, value in stored.items()}
        try:
            return Categories(**fields)
        except (TypeError, ValueError) as exc:
            raise StoreError(f"the class names of '{name}' are damaged: {exc}") from exc
    found, warning = categories_of(cfg)
    if warning:
        _log.warning("'%s' is stored %s", name, warning)
    return found


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


def _chosen(folder: Path) -> Path:
    """Return the checkpoint that training wrote last."""
    found = {path.name: path for path in _checkpoints(folder)}
    pointer = folder / _POINTER
    last = content(pointer).strip() or _FINAL
    last = last.rsplit("/", 1)[-1]  # it may hold the path that training had
    if last in found:
        return found[last]
    if len(found) == 1:
        return next(iter(found.values()))
    raise StoreError(
        f"'{folder}' has {len(found)} checkpoints, and neither {_POINTER} nor {_FINAL} says which "
        f"is meant: {', '.join(found)}; name it: python -m pipeline.store save NAME --config "
        f"{folder / CONFIG} --weights {folder / next(iter(found))}"
    )


def _model_name(folder: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "_", folder.resolve().name.lower()).lstrip("._-")[:63]
    return name or "model"
