"""Models: their configs, weights and classes, and the store that keeps them under tags.

The functions are those that users know from ``bentoml.detectron`` and ``bentoml.models``; they work
on the store in ``$D2RUN_HOME`` unless ``store=ModelStore(...)`` says another. Importing this
imports neither torch nor Detectron2; saving or loading a model does.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping

from pipeline.store.api.predictor import load_model, save_model
from pipeline.store.api.runnable import get_runnable
from pipeline.store.disk.entry import StoredModel
from pipeline.store.disk.local import ModelStore
from pipeline.store.exchange.incoming import import_model
from pipeline.store.exchange.outgoing import export_model
from pipeline.store.model import Model

__all__ = [
    "Model",
    "ModelStore",
    "StoredModel",
    "delete",
    "export_model",
    "get",
    "get_runnable",
    "import_model",
    "list",
    "load_model",
    "save_model",
]

PARTS = ("disk.local.ModelStore",)  # what `store._target_` may name


def get(tag: str, *, trust: bool = False, store: ModelStore | None = None) -> StoredModel:
    """Find a stored model; see ``ModelStore.get``."""
    return (store or ModelStore()).get(tag, trust=trust)


def list(
    name: str | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    store: ModelStore | None = None,
) -> builtins.list[StoredModel]:
    """Return the stored models; see ``ModelStore.list``."""
    return (store or ModelStore()).list(name, labels=labels)


def delete(tag: str, *, store: ModelStore | None = None) -> builtins.list[str]:
    """Delete one version, or with a bare name all of them; see ``ModelStore.delete``."""
    return (store or ModelStore()).delete(tag)
