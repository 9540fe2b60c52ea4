"""The protocol of a model store, as models use it; implemented by ``pipeline.store.ModelStore``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.models.config_file import ConfigFile
from pipeline.records import Categories

if TYPE_CHECKING:
    from torch import Tensor, nn


class StoredModel(Protocol):
    """One saved version of a model."""

    @property
    def tag(self) -> str:
        """``name:version``."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of everything in it, in hexadecimal digits."""
        ...

    @property
    def categories(self) -> Categories:
        """The classes that it distinguishes."""
        ...

    @property
    def weights_path(self) -> Path:
        """Its weight file."""
        ...

    def config(self) -> ConfigFile:
        """Return its config."""
        ...

    def verify(self) -> None:
        """Raise ModelCorruptError unless every file is as it was saved."""
        ...

    def import_modules(self) -> None:
        """Import the Python modules that were saved with it."""
        ...

    def build(self, cfg: Any) -> nn.Module:
        """Build its module on the CPU, without the weights."""
        ...


class Store(Protocol):
    """Finds and saves models.

    Attributes:
        zoo_url: Address of a mirror of the model zoo; ``None`` for Detectron2's own.
    """

    zoo_url: str | None

    @property
    def downloads(self) -> Path:
        """Directory for downloaded weights."""
        ...

    def get(self, tag: str, *, trust: bool = False) -> StoredModel:
        """Return the model with this tag."""
        ...

    def refuse_existing(self, tag: str) -> None:
        """Raise an error if a new version cannot have this tag."""
        ...

    def save_tested(
        self,
        tag: str,
        cfg: Any,
        weights: Mapping[str, Tensor],
        categories: Categories,
        *,
        labels: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Any:
        """Rebuild a model from its config, test it, save it and return the stored model."""
        ...
