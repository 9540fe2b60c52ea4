"""``Model`` with a default store."""

from __future__ import annotations

from typing import Any

from pipeline.models import model
from pipeline.store.api.store import ModelStore


class Model(model.Model):
    """A model whose store is, by default, the one in ``$D2RUN_HOME``.

    Args:
        name: The display name, and the name in the store when the model is saved.
        store: Finds stored models and keeps downloads.
        options: Options of ``pipeline.models.model.Model``.
    """

    def __init__(self, name: str, *, store: ModelStore | None = None, **options: Any) -> None:
        super().__init__(name, store=store or ModelStore(), **options)
