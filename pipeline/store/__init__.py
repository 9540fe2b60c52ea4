"""Models: their configs, weights and classes, and the store that keeps them under tags.

Importing this imports neither torch nor Detectron2; loading a model does.
"""

from __future__ import annotations

from pipeline.store.entry import StoredModel
from pipeline.store.local import ModelStore
from pipeline.store.model import Model

__all__ = ["Model", "ModelStore", "StoredModel"]
