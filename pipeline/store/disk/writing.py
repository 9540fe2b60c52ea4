"""Writes to a store directory: new versions, aliases and deletions.

```
<root>/<name>/latest                       name of the newest version
<root>/<name>/<alias>                      name of the version that the alias refers to
<root>/<name>/<version>/model.yaml         description, and size and SHA-256 of each file below
<root>/<name>/<version>/config.yaml        Detectron2's CfgNode as plain YAML
<root>/<name>/<version>/weights.safetensors
<root>/.downloads/<host>/<path>            downloaded weights
```
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelExistsError, ModelNotFoundError, StoreError
from pipeline.models.config_file import parse_yaml
from pipeline.records import Categories
from pipeline.store.disk.context import framework_context
from pipeline.store.disk.lookup import find_own, resolve_paths
from pipeline.store.disk.options import plain_options
from pipeline.store.disk.plain import (
    plain_categories,
    plain_labels,
    plain_metadata,
)
from pipeline.store.disk.pointers import (
    EARLIEST,
    aliases_in,
    creation_time,
    latest_version,
    update_latest,
    versions_in,
)
from pipeline.store.disk.signatures import plain_signatures
from pipeline.store.disk.staging import hide, locked, staged
from pipeline.store.disk.tags import LATEST, Tag, TagLike, check_version
from pipeline.store.disk.version import (
    CONFIG,
    WEIGHTS,
    ModelVersion,
    open_version,
    read_version,
    seal,
    write_weights,
)
from pipeline.system.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor


def write_version(
    root: Path,
    tag: TagLike,
    *,
    config_yaml: str,
    weights: Mapping[str, Tensor],
    categories: Categories,
    labels: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    signatures: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    kind: str = "predictor",
    created: datetime | None = None,
    files: Mapping[str, bytes] | None = None,
    more: Mapping[str, Any] | None = None,
) -> ModelVersion:
    """Write a new version and make it the latest; after an error, nothing remains on disk.

    Args:
        root: The store directory.
        tag: ``name``, whose version becomes the time in UTC and a random part, or
            ``name:version``.
        config_yaml: Detectron2's ``CfgNode.dump()``.
        weights: Tensors by name.
        categories: The classes that the model distinguishes.
        labels: Labels to find it by.
        metadata: Other plain values.
        signatures: Callable methods of the model, as BentoML describes them.
        options: How the model is run; see ``ModelOptions``.
        kind: ``predictor`` or ``module``.
        created: Time of creation if not now; an older version does not become the latest.
        files: Contents of more files, by name.
        more: More keys of ``model.yaml``.

    Raises:
        ConfigError: The tag, the config or the metadata cannot be saved.
        ModelExistsError: The name has this version.
        StoreError: The directory cannot be written.
    """
    tag = Tag.from_taglike(tag)
    refuse_existing(root, tag)
    now = datetime.now(timezone.utc)
    name, version = tag.name, tag.version or f"{now:%Y%m%dt%H%M%S%f}-{secrets.token_hex(3)}"
    parse_yaml(config_yaml, "the config")
    info = {
        "name": name,
        "version": version,
        "module": "pipeline.store",
        "created": _in_utc(created or now).isoformat(timespec="microseconds"),
        "kind": kind,
        "labels": plain_labels(labels),
        "metadata": plain_metadata(metadata),
        "signatures": plain_signatures(signatures),
        **({"options": plain} if (plain := plain_options(options)) else {}),
        "context": framework_context(),
        "categories": plain_categories(categories),
        **(more or {}),
    }
    try:
        with staged(root / name) as folder:
            (folder / CONFIG).write_text(config_yaml, encoding="utf-8")
            write_weights(folder / WEIGHTS, weights)
            for file, content in (files or {}).items():
                (folder / file).write_bytes(content)
            seal(folder, info)
            return publish(root, folder, name, version)
    except OSError as exc:
        reason = exc.strerror or exc
        raise StoreError(f"cannot save '{name}:{version}' in {root}: {reason}") from exc


def publish(root: Path, folder: Path, name: str, version: str) -> ModelVersion:
    """Rename a sealed and durable directory, on the same file system, to its place in the store.

    Raises:
        ModelExistsError: The name has this version, or an alias of this name.
    """
    home = root / name
    home.mkdir(parents=True, exist_ok=True)
    with locked(home):
        refuse_existing(root, Tag(name, version))
        before = versions_in(home)
        newest = creation_time(home / latest_version(home, before)) if before else EARLIEST
        # the pointer first: as long as it names a missing version, the newest one counts
        if read_version(folder).info.creation_time >= newest:
            write_whole(home / LATEST, version)
        try:
            folder.rename(home / version)
        finally:  # in any case, even after Ctrl-C
            update_latest(home)
    return open_version(home / version)


def refuse_existing(root: Path, tag: TagLike) -> None:
    """Check that a new version can have a tag.

    Raises:
        ConfigError: The tag is not valid, or ``latest``.
        ModelExistsError: The name has this version, or an alias of this name.
    """
    tag = Tag.from_taglike(tag)
    if tag.version is None:
        return
    check_version(tag.version)
    path = root / tag.name / tag.version
    if path.exists() or path.is_symlink():
        what = "version" if path.is_dir() else "alias"
        raise ModelExistsError(f"the {what} '{tag}' already exists ({path}); choose another tag")


def set_alias(root: Path, tag: TagLike, alias: str) -> ModelVersion:
    """Set the alias ``name:alias`` of a version.

    Raises:
        ConfigError: The alias is not a valid name.
        ModelExistsError: A version has this name.
        StoreError: The model is bundled with d2run, or the directory cannot be written.
    """
    model = find_own(root, tag)
    alias = str(Tag(model.tag.name, alias).version)
    check_version(alias)
    home = model.path.parent
    try:
        with locked(home):
            if alias in versions_in(home):
                raise ModelExistsError(
                    f"'{home.name}:{alias}' is the name of a version; choose another alias"
                )
            write_whole(home / alias, model.path.name)
    except OSError as exc:
        raise StoreError(f"cannot write {home / alias}: {exc.strerror or exc}") from exc
    return model


def remove_alias(root: Path, tag: TagLike) -> None:
    """Remove the alias ``name:alias``; its version stays.

    Raises:
        ModelNotFoundError: There is no such alias.
    """
    tag = Tag.from_taglike(tag)
    home = root / tag.name
    known = aliases_in(home)
    if (alias := tag.version) not in known:
        raise ModelNotFoundError(tag, [f"{tag.name}:{key}" for key in known], str(root))
    (home / str(alias)).unlink(missing_ok=True)


def delete_versions(root: Path, *tags: TagLike) -> list[str]:
    """Delete versions, all of a model for a bare name, and return their tags.

    Either all of them are deleted or, if one cannot be deleted, none.

    Raises:
        ModelNotFoundError: There is no such model.
        StoreError: An alias names a version, a model is bundled with d2run, or the directory cannot
            be written.
    """
    paths = resolve_paths(root, *tags)
    homes = dict.fromkeys(path.parent for path in paths)
    try:
        with ExitStack() as locks:
            for home in sorted(homes):
                locks.enter_context(locked(home))
            for home in homes:
                _refuse_aliased(home, paths)
            hidden = [hide(path) for path in paths if path.exists()]
            for home in homes:
                update_latest(home)
        for folder in hidden:
            shutil.rmtree(folder, ignore_errors=True)  # prune() deletes what remains
    except OSError as exc:
        what = ", ".join(map(Tag.from_taglike, tags))
        raise StoreError(f"cannot delete '{what}': {exc.strerror or exc}") from exc
    return [f"{path.parent.name}:{path.name}" for path in paths]


def _in_utc(when: datetime) -> datetime:
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)


def _refuse_aliased(home: Path, paths: list[Path]) -> None:
    for alias, version in aliases_in(home).items():
        if home / version in paths:
            raise StoreError(
                f"the alias '{home.name}:{alias}' names '{home.name}:{version}'; remove or move "
                "the alias first"
            )
