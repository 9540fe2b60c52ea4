"""Stored models: saved under tags, found, loaded, exported and imported.

The functions have the interface of ``bentoml.detectron`` and ``bentoml.models``. They use the store
in ``$D2RUN_HOME`` unless ``store=ModelStore(...)`` names another. Importing this package imports
neither torch nor Detectron2; saving or loading a model does.
"""

from pipeline.store.api.functions import delete, get, get_runnable, list, load_model, save_model
from pipeline.store.api.model import Model
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.disk.options import ModelOptions
from pipeline.store.disk.tags import Tag
from pipeline.store.exchange.incoming import import_model
from pipeline.store.exchange.outgoing import export_model

__all__ = [
    "Model",
    "ModelOptions",
    "ModelStore",
    "StoredModel",
    "Tag",
    "delete",
    "export_model",
    "get",
    "get_runnable",
    "import_model",
    "list",
    "load_model",
    "save_model",
]

StoredModel.export = export_model

PARTS = ("api.store.ModelStore",)  # what `store._target_` may name
