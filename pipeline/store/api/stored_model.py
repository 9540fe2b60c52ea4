"""A stored model: one version on disk, with the methods that load and run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.models.config_file import ConfigFile, read_plain
from pipeline.store.api.building import build_module, load_version
from pipeline.store.api.custom import import_modules, load_custom_objects
from pipeline.store.api.runnable import LocalRunner, make_runnable
from pipeline.store.disk.version import CONFIG, WEIGHTS, ModelVersion

if TYPE_CHECKING:
    from detectron2.engine import DefaultPredictor
    from torch import nn


@dataclass(frozen=True, slots=True, repr=False)
class StoredModel(ModelVersion):
    """One version of a model in the store, with the interface of BentoML's ``Model``.

    Attributes:
        tag: ``name:version``; a string with the attributes ``name`` and ``version``.
        path: Directory of the version.
        info: The content of its ``model.yaml``, as a mapping and as attributes.
        trust: Whether the model's custom objects and modules may run code in this process.
    """

    # pipeline.store.export_model, which is in a layer above
    export: ClassVar[Callable[..., str]]

    @classmethod
    def of(cls, version: ModelVersion) -> StoredModel:
        """Return a version on disk as a stored model."""
        return cls(version.tag, version.path, version.info, version.trust)

    def path_of(self, item: str) -> str:
        """Return the path of one of its files."""
        return str(self.path / item.lstrip("/"))

    @property
    def creation_time(self) -> datetime:
        """Time of saving, with its time zone."""
        return self.info.creation_time

    @property
    def custom_objects(self) -> dict[str, Any]:
        """The objects that were saved with it; empty if there are none.

        Raises:
            UntrustedModelError: It was opened without ``trust=True``; says what code would run.
            ModelCorruptError: The file differs from what was saved.
        """
        return load_custom_objects(self)

    @property
    def weights_path(self) -> Path:
        """Its weight file."""
        return self.path / WEIGHTS

    def config(self) -> ConfigFile:
        """Return its config.

        Raises:
            ModelCorruptError: The file differs from what was saved.
        """
        return ConfigFile(CONFIG, read_plain(self.file(CONFIG)), in_zoo=False)

    def import_modules(self) -> None:
        """Import the Python modules that were saved with it.

        Raises:
            UntrustedModelError: It was opened without ``trust=True``.
            StoreError: Another module of that name is imported, or a module fails.
        """
        import_modules(self)

    def build(self, cfg: Any) -> nn.Module:
        """Build its module on the CPU from a ``CfgNode``, without the weights.

        Raises:
            ConfigError: Detectron2 cannot build it.
            UntrustedModelError: It requires the Python modules that were saved with it.
        """
        return build_module(self, cfg)

    def load_model(self, device_id: str = "cpu") -> DefaultPredictor | nn.Module:
        """Return the model on a device; see ``pipeline.store.load_model``."""
        return load_version(self, device_id, trust=self.trust, verify=True)

    def to_runnable(self) -> type:
        """Return a class with one method per signature; see ``pipeline.store.get_runnable``."""
        return make_runnable(self)

    def to_runner(self, name: str = "") -> LocalRunner:
        """Return the model with BentoML's interface: ``init_local()``, then ``run(image)``."""
        return LocalRunner(self, name or str(self.info["name"]))
