"""A stored model: one version on disk, with the methods that load and run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.errors import ConfigError
from pipeline.models.config_file import ConfigFile, read_plain
from pipeline.store.api.building import build_module, load_version
from pipeline.store.api.custom import import_modules, load_custom_objects
from pipeline.store.api.running.factory import make_runnable, make_runner
from pipeline.store.disk.options import ModelOptions
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

    @property
    def options(self) -> ModelOptions:
        """How it is run."""
        return self.info.options

    def with_options(self, **options: Any) -> StoredModel:
        """Return the model with other options; the store does not change.

        Args:
            options: ``device_id``: the device of its runnable; ``partial_kwargs``: keyword
                arguments for its methods, by method.

        Raises:
            ConfigError: There is no such option or method, or a value is not valid.
        """
        changed = self.info.with_options(**options)
        for method in options.get("partial_kwargs", {}):
            if method not in self.info["signatures"]:
                raise ConfigError(
                    f"partial_kwargs: '{self.tag}' has no signature {method!r}; it has "
                    f"{', '.join(self.info['signatures'])}"
                )
        return replace(self, info=changed)

    def to_runnable(self) -> Any:
        """Return a class with one method per signature; see ``pipeline.store.get_runnable``."""
        return make_runnable(self)

    def to_runner(
        self,
        name: str = "",
        max_batch_size: int | None = None,
        max_latency_ms: int | None = None,
        method_configs: Mapping[str, Mapping[str, int]] | None = None,
        embedded: bool = False,
        scheduling_strategy: type | None = None,
    ) -> Any:
        """Return a runner, which loads the model on the first ``run(image)`` or ``async_run``.

        It is a ``bentoml.legacy.Runner`` if BentoML is installed, for the ``runners`` of a
        ``bentoml.legacy.Service``; otherwise a ``LocalRunner`` with the same methods.

        Args:
            name: The runner's name; by default the model's.
            max_batch_size: The largest batch that BentoML's server gathers from requests to
                methods whose signature is ``batchable``.
            max_latency_ms: The time in ms within which it answers such a request.
            method_configs: These two by method.
            embedded: Run the model in the process of the service instead of its own.
            scheduling_strategy: A subclass of ``bentoml.legacy.Strategy``.

        Raises:
            ConfigError: The name is not valid, or there is no such method.
        """
        return make_runner(
            self,
            name=name,
            max_batch_size=max_batch_size,
            max_latency_ms=max_latency_ms,
            method_configs=method_configs,
            scheduling_strategy=scheduling_strategy,
            embedded=embedded,
        )
