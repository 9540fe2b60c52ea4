"""Finds models in a store directory and among the models bundled with d2run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import ConfigError, ModelNotFoundError, StoreError
from pipeline.store.disk.pointers import (
    folders_in,
    matching_versions,
    resolve_version,
    versions_in,
)
from pipeline.store.disk.tags import Tag, TagLike, is_name
from pipeline.store.disk.version import ModelVersion, open_version

BUNDLED = Path(__file__).parents[1] / "bundled"  # models that come with d2run, read-only

_log = logging.getLogger(__name__)


def find_model(root: Path, tag: TagLike, *, trust: bool = False) -> ModelVersion:
    """Return the version that a tag names, preferring the store's own models to bundled ones.

    Raises:
        ConfigError: The tag is not valid.
        ModelNotFoundError: There is no such model.
        StoreError: The tag is a prefix of several versions.
        ModelCorruptError: The ``model.yaml`` is damaged.
    """
    tag = Tag.from_taglike(tag)
    for home in (place / tag.name for place in _roots(root)):
        if version := resolve_version(tag, home):
            return open_version(home / version, trust=trust)
    known = [f"{tag.name}:{v}" for place in _roots(root) for v in versions_in(place / tag.name)]
    known = known or sorted({model.tag.name for model in list_models(root)})
    raise ModelNotFoundError(str(tag), known, str(root))


def find_own(root: Path, tag: TagLike) -> ModelVersion:
    """Return the version that a tag names, unless it is bundled with d2run.

    Raises:
        StoreError: The model is bundled, so it cannot be changed.
    """
    model = find_model(root, tag)
    if model.path.parent.parent != root:
        raise StoreError(f"'{model.tag}' comes with d2run and cannot be changed")
    return model


def list_models(
    root: Path, tag: TagLike | None = None, labels: Mapping[str, str] | None = None
) -> list[ModelVersion]:
    """Return the matching versions, sorted by name and time.

    Damaged versions are skipped with a warning.

    Args:
        root: The store directory.
        tag: Return only versions that this tag matches: for a bare name, all versions.
        labels: Return only versions with all of these labels.
    """
    wanted = None if tag is None else Tag.from_taglike(tag)
    found: dict[str, ModelVersion] = {}
    for place in _roots(root):
        if wanted is not None and wanted.version and found:
            break  # as find_model, which prefers the store's own models
        for home in folders_in(place):
            if is_name(home.name) and (wanted is None or wanted.name == home.name):
                for model in _versions(home, wanted or Tag(home.name)):
                    found.setdefault(model.tag, model)
    required = dict(labels or {}).items()
    matching = [model for model in found.values() if required <= model.info["labels"].items()]
    return sorted(matching, key=lambda model: (model.info["name"], model.info.creation_time))


def list_tags(root: Path) -> list[str]:
    """Return the tags of all versions of the store directory, including damaged ones."""
    homes = [home for home in folders_in(root) if is_name(home.name)]
    versions = [version for home in homes for version in folders_in(home)]
    return [f"{v.parent.name}:{v.name}" for v in versions if is_name(v.name)]


def resolve_paths(root: Path, *tags: TagLike) -> list[Path]:
    """Return the directories that deleting the tags would delete, including damaged versions.

    Args:
        root: The store directory.
        tags: Tags; a bare name means all versions.

    Raises:
        ModelNotFoundError: There is no such model.
        StoreError: The model is bundled with d2run.
    """
    paths: dict[Path, None] = {}
    for tag in map(Tag.from_taglike, tags):
        home = root / tag.name
        if versions := versions_in(home) if not tag.version else []:
            paths |= dict.fromkeys(home / each for each in versions)
        elif found := resolve_version(tag, home):
            paths[home / found] = None
        else:
            find_own(root, tag)  # raises the reason
    return list(paths)


def _roots(root: Path) -> Iterator[Path]:
    yield root
    if root != BUNDLED:
        yield BUNDLED


def _versions(home: Path, tag: Tag) -> Iterator[ModelVersion]:
    for version in matching_versions(tag, home):
        try:
            yield open_version(home / version)
        except (StoreError, ConfigError) as exc:
            _log.warning("skipped: %s", exc)
