"""The model store: saves models under ``name:version`` and finds them again."""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.errors import StoreError
from pipeline.records import Categories
from pipeline.store.api.rebuilding import rebuild
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.disk import lookup, writing
from pipeline.store.disk.plain import plain_labels, plain_metadata
from pipeline.store.disk.pointers import aliases_in
from pipeline.store.disk.staging import remove_leftovers
from pipeline.store.disk.tags import Tag, TagLike
from pipeline.system.files import expanded

if TYPE_CHECKING:
    from torch import Tensor


class ModelStore:
    """Saves models under ``name:version`` and finds them again.

    Args:
        root: The directory; created when something is saved. By default ``$D2RUN_HOME/models``, or
            ``~/.d2run/models``.
        zoo_url: Address of a mirror of the model zoo; by default Detectron2's own.
    """

    def __init__(self, root: str | Path | None = None, zoo_url: str | None = None) -> None:
        home = os.environ.get("D2RUN_HOME") or "~/.d2run"
        self.root = expanded(str(root) if root is not None else f"{home}/models")
        self.zoo_url = zoo_url

    @property
    def downloads(self) -> Path:
        """Directory for downloaded weights."""
        return self.root / ".downloads"

    def save(
        self,
        tag: TagLike,
        *,
        config_yaml: str,
        weights: Mapping[str, Tensor],
        categories: Categories,
        **more: Any,
    ) -> StoredModel:
        """Write a new version as it is, without testing it; see ``disk.writing.write_version``."""
        return StoredModel.of(
            writing.write_version(
                self.root,
                tag,
                config_yaml=config_yaml,
                weights=weights,
                categories=categories,
                **more,
            )
        )

    def save_tested(
        self,
        tag: TagLike,
        cfg: Any,
        weights: Mapping[str, Tensor],
        categories: Categories,
        *,
        labels: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        signatures: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        kind: str = "predictor",
        created: datetime | None = None,
        custom_objects: Mapping[str, Any] | None = None,
        external_modules: Iterable[ModuleType] | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> StoredModel:
        """Rebuild a model from its config, load the weights, record a self-test, and save it.

        So a model that does not fit or cannot run is not saved, and what is saved was tested.

        Args:
            tag: ``name`` or ``name:version``.
            cfg: Detectron2's ``CfgNode``; not changed.
            weights: Tensors by name.
            categories: The classes that the model distinguishes.
            labels: Labels to find the model by.
            metadata: Plain values.
            signatures: Callable methods of the model.
            options: How the model is run; see ``ModelOptions``.
            kind: ``predictor`` or ``module``: the type that ``load_model`` returns.
            created: Time of creation, if not now.
            custom_objects: Python objects to save with the model.
            external_modules: Modules whose source is saved with the model.
            origin: The file or address that the model was imported from.

        Raises:
            ConfigError: A value cannot be saved, Detectron2 cannot build the model, or d2run cannot
                run it.
            ModelCorruptError: The weights do not fit the config.
            StoreError: The directory cannot be written.
        """
        tag = Tag.from_taglike(tag)
        plain = {"labels": plain_labels(labels), "metadata": plain_metadata(metadata)}
        rebuilt = rebuild(tag, cfg, weights, categories, custom_objects, external_modules, origin)
        return self.save(
            tag,
            config_yaml=rebuilt.config_yaml,
            weights=rebuilt.weights,
            categories=categories,
            **plain,
            signatures=signatures,
            options=options,
            kind=kind,
            created=created,
            files=rebuilt.files,
            more=rebuilt.more,
        )

    def publish(self, folder: Path, name: str, version: str) -> StoredModel:
        """Move a sealed directory into the store; see ``disk.writing.publish``."""
        return StoredModel.of(writing.publish(self.root, folder, name, version))

    def refuse_existing(self, tag: TagLike) -> None:
        """Check that a new version can have a tag.

        Raises:
            ConfigError: The tag is not valid, or ``latest``.
            ModelExistsError: The name has this version, or an alias of this name.
        """
        writing.refuse_existing(self.root, tag)

    def get(self, tag: TagLike, *, trust: bool = False) -> StoredModel:
        """Find ``name``, ``name:latest``, an alias, a version or a unique prefix of a version.

        Models that come with d2run are found too, unless the store has a model with that tag.

        Args:
            tag: A tag, or a model for its tag, of d2run or BentoML.
            trust: Whether the model's custom objects and modules may run code in this process.

        Raises:
            ConfigError: The tag is not valid.
            ModelNotFoundError: There is no such model.
            StoreError: The tag is a prefix of several versions.
            ModelCorruptError: Its ``model.yaml`` is damaged.
        """
        return StoredModel.of(lookup.find_model(self.root, tag, trust=trust))

    def list(
        self, tag: TagLike | None = None, *, labels: Mapping[str, str] | None = None
    ) -> builtins.list[StoredModel]:
        """Return all versions of all models, or those that match, sorted by name and time.

        Damaged versions are skipped with a warning.

        Args:
            tag: Return only versions that this tag matches: for a bare name, all versions.
            labels: Return only versions with all of these labels.
        """
        return [StoredModel.of(model) for model in lookup.list_models(self.root, tag, labels)]

    def tags(self) -> builtins.list[str]:
        """Return the tags of all versions, including damaged ones."""
        return lookup.list_tags(self.root)

    def aliases(self, name: str) -> dict[str, str]:
        """Return the versions of a model's aliases, by alias."""
        return aliases_in(self.root / name)

    def alias(self, tag: TagLike, alias: str) -> StoredModel:
        """Set the alias ``name:alias`` of a version.

        Raises:
            ConfigError: The alias is not a valid name.
            ModelExistsError: A version has this name.
            StoreError: The model comes with d2run, or the directory cannot be written.
        """
        return StoredModel.of(writing.set_alias(self.root, tag, alias))

    def unalias(self, tag: TagLike) -> None:
        """Remove the alias ``name:alias``; its version stays.

        Raises:
            ModelNotFoundError: There is no such alias.
        """
        writing.remove_alias(self.root, tag)

    def delete(self, *tags: TagLike) -> builtins.list[str]:
        """Delete versions, all of a model for a bare name, and return their tags.

        Either all of them are deleted or, if one cannot be deleted, none.

        Raises:
            ModelNotFoundError: There is no such model.
            StoreError: An alias names a version, a model comes with d2run, or the directory cannot
                be written.
        """
        return writing.delete_versions(self.root, *tags)

    def resolve(self, *tags: TagLike) -> builtins.list[Path]:
        """Return the directories that ``delete`` would delete, including damaged versions.

        Raises:
            ModelNotFoundError: There is no such model.
            StoreError: A model comes with d2run.
        """
        return lookup.resolve_paths(self.root, *tags)

    def prune(self) -> builtins.list[Path]:
        """Delete the leftovers of killed processes, and return their paths.

        Raises:
            StoreError: The directory cannot be read or written.
        """
        try:
            return remove_leftovers(self.root) if self.root.is_dir() else []
        except OSError as exc:
            raise StoreError(f"cannot prune {self.root}: {exc.strerror or exc}") from exc
