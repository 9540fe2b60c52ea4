"""The store on the local disk: one directory a version, written whole, verified when loaded.

```
<root>/<name>/latest                       the newest version's name
<root>/<name>/<alias>                      the name of the version that an alias stands for
<root>/<name>/<version>/model.yaml         what it is, and the size and SHA-256 of each file below
<root>/<name>/<version>/config.yaml        Detectron2's CfgNode as plain YAML
<root>/<name>/<version>/weights.safetensors
<root>/.downloads/<host>/<path>            weights from the network
```
"""

from __future__ import annotations

import builtins
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import (
    ConfigError,
    ModelExistsError,
    ModelNotFoundError,
    StoreError,
)
from pipeline.models.config_file import parse_yaml
from pipeline.records import Categories
from pipeline.store.disk.entry import (
    CONFIG,
    WEIGHTS,
    StoredModel,
    context,
    open_entry,
    plain,
    read_entry,
    seal,
    write_weights,
)
from pipeline.store.disk.plain import plain_labels, plain_metadata, plain_signatures
from pipeline.store.disk.pointers import (
    LONG_AGO,
    aliases_in,
    folders_in,
    latest_of,
    meant_by,
    point_to_latest,
    versions_in,
)
from pipeline.store.disk.pointers import created as created_at
from pipeline.store.disk.staging import left_over, locked, removed, staged
from pipeline.store.disk.tags import LATEST, check_version, is_name, parse_tag
from pipeline.system.files import expanded, write_whole

if TYPE_CHECKING:
    from torch import Tensor

BUNDLED = Path(__file__).parents[1] / "bundled"  # models that come with d2run, read-only

_log = logging.getLogger(__name__)


class ModelStore:
    """Saves models under ``name:version`` and finds them again.

    Args:
        root: The directory; made when something is saved. By default ``$D2RUN_HOME/models``, or
            ``~/.d2run/models``.
        zoo_url: Where the zoo's weights are had from, in place of Detectron2's own address.
    """

    def __init__(self, root: str | Path | None = None, zoo_url: str | None = None) -> None:
        home = os.environ.get("D2RUN_HOME") or "~/.d2run"
        self.root = expanded(str(root) if root is not None else f"{home}/models")
        self.zoo_url = zoo_url

    @property
    def downloads(self) -> Path:
        """Where weights from the network are kept."""
        return self.root / ".downloads"

    def save(
        self,
        tag: str,
        *,
        config_yaml: str,
        weights: Mapping[str, Tensor],
        categories: Categories,
        labels: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        signatures: Mapping[str, Any] | None = None,
        kind: str = "predictor",
        created: datetime | None = None,
        files: Mapping[str, bytes] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> StoredModel:
        """Write a new version and make it the latest; on an error nothing is left behind.

        Args:
            tag: ``name``, whose version is then the time in UTC and a random part, or
                ``name:version``; lower-case letters, digits, ``.``, ``_`` and ``-``.
            config_yaml: Detectron2's ``CfgNode.dump()``.
            weights: Tensors by name.
            categories: What the model can tell apart.
            labels: Words to find it by.
            metadata: Anything else worth keeping, as plain values.
            signatures: Callable methods of the model, as BentoML describes them.
            kind: ``predictor`` or ``module``.
            created: When it was made, if not now; an older one does not become the latest.
            files: Contents of further files, by name.
            more: Further keys of ``model.yaml``.

        Raises:
            ConfigError: A name, the config or the metadata cannot be stored.
            ModelExistsError: The name has this version.
            StoreError: The disk refuses.
        """
        self.refuse_existing(tag)
        name, version = parse_tag(tag)
        now = datetime.now(timezone.utc)
        version = version or f"{now:%Y%m%dt%H%M%S%f}-{secrets.token_hex(3)}"
        check_version(version)
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
            "context": context(),
            "categories": plain(categories),
            **(more or {}),
        }
        try:
            with staged(self.root / name) as folder:
                (folder / CONFIG).write_text(config_yaml, encoding="utf-8")
                write_weights(folder / WEIGHTS, weights)
                for file, content in (files or {}).items():
                    (folder / file).write_bytes(content)
                seal(folder, info)
                return self.publish(folder, name, version)
        except OSError as exc:
            reason = exc.strerror or exc
            raise StoreError(f"cannot save '{name}:{version}' in {self.root}: {reason}") from exc

    def publish(self, folder: Path, name: str, version: str) -> StoredModel:
        """Rename a sealed and synced folder of this file system to its place.

        Raises:
            ModelExistsError: The name has this version, or an alias of that name.
        """
        home = self.root / name
        home.mkdir(parents=True, exist_ok=True)
        with locked(home):
            self.refuse_existing(f"{name}:{version}")
            before = versions_in(home)
            newest = created_at(home / latest_of(home, before)) if before else LONG_AGO
            # the pointer first: while it names what is not there yet, the newest counts
            if read_entry(folder).info.creation_time >= newest:
                write_whole(home / LATEST, version)
            try:
                folder.rename(home / version)
            finally:  # whatever happened, Ctrl-C too
                point_to_latest(home)
        return open_entry(home / version)

    def get(self, tag: str, *, trust: bool = False) -> StoredModel:
        """Find ``name``, ``name:latest``, an alias, a version or a version's unique beginning.

        Models that come with d2run are found too, unless the user's own have that tag.

        Args:
            tag: What to find.
            trust: Whether its custom objects and modules may run their code here.

        Raises:
            ConfigError: It is not a tag.
            ModelNotFoundError: There is no such model.
            StoreError: The beginning is that of several versions.
            ModelCorruptError: Its ``model.yaml`` is damaged.
        """
        name, _ = parse_tag(tag)
        for home in (root / name for root in self._roots()):
            if version := meant_by(tag, home):
                return open_entry(home / version, trust=trust)
        raise self._not_found(tag)

    def list(
        self, name: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> builtins.list[StoredModel]:
        """Return all versions of all models, oldest first within a name.

        What is damaged is left out, and a warning says so.

        Args:
            name: Only this one's.
            labels: Only those that have them all.
        """
        found: dict[str, StoredModel] = {}
        for root in self._roots():
            for home in folders_in(root):
                if is_name(home.name) and name in (None, home.name):
                    for entry in self._entries(home):
                        found.setdefault(entry.tag, entry)
        wanted = dict(labels or {}).items()
        chosen = [entry for entry in found.values() if wanted <= entry.info["labels"].items()]
        return sorted(chosen, key=lambda e: (e.info["name"], e.info.creation_time))

    def tags(self) -> builtins.list[str]:
        """Return the tags of all versions, of the damaged too."""
        homes = [home for home in folders_in(self.root) if is_name(home.name)]
        versions = [version for home in homes for version in folders_in(home)]
        return [f"{v.parent.name}:{v.name}" for v in versions if is_name(v.name)]

    def aliases(self, name: str) -> dict[str, str]:
        """Return the versions that a model's aliases stand for, by alias."""
        return aliases_in(self.root / name)

    def alias(self, tag: str, alias: str) -> StoredModel:
        """Have ``name:alias`` stand for a version, until it is set anew.

        Raises:
            ConfigError: The alias is no name.
            ModelExistsError: A version is called so.
            StoreError: The model comes with d2run, or the disk refuses.
        """
        check_version(alias)
        entry = self._own(tag)
        home = entry.path.parent
        try:
            with locked(home):
                if alias in versions_in(home):
                    raise ModelExistsError(f"'{home.name}:{alias}' is a version already")
                write_whole(home / alias, entry.path.name)
        except OSError as exc:
            raise StoreError(f"cannot write {home / alias}: {exc.strerror or exc}") from exc
        return entry

    def unalias(self, tag: str) -> None:
        """Remove the alias that ``name:alias`` names; the version stays.

        Raises:
            ModelNotFoundError: There is no such alias.
        """
        name, alias = parse_tag(tag)
        known = self.aliases(name)
        if alias not in known:
            raise ModelNotFoundError(tag, [f"{name}:{key}" for key in known], str(self.root))
        (self.root / name / alias).unlink(missing_ok=True)

    def delete(self, *tags: str) -> builtins.list[str]:
        """Delete versions, or with a bare name all of its; return their tags.

        Either all of them are deleted or, if one cannot be, none.

        Raises:
            ModelNotFoundError: There is no such model.
            StoreError: An alias stands for one, it comes with d2run, or the disk refuses.
        """
        places = self.meant(*tags)
        homes = dict.fromkeys(place.parent for place in places)
        hidden = []
        try:
            with ExitStack() as locks:
                for home in sorted(homes):
                    locks.enter_context(locked(home))
                for home in homes:
                    _refuse_aliased(home, places)
                hidden = [removed(place) for place in places if place.exists()]
                for home in homes:
                    point_to_latest(home)
            for folder in hidden:
                shutil.rmtree(folder, ignore_errors=True)  # or prune() does
        except OSError as exc:
            what = ", ".join(tags)
            raise StoreError(f"cannot delete '{what}': {exc.strerror or exc}") from exc
        return [f"{place.parent.name}:{place.name}" for place in places]

    def meant(self, *tags: str) -> builtins.list[Path]:
        """Return the folders that a deletion of tags would delete; damaged ones too.

        Raises:
            ModelNotFoundError: There is no such model.
            StoreError: It comes with d2run.
        """
        places: dict[Path, None] = {}
        for tag in tags:
            name, version = parse_tag(tag)
            home = self.root / name
            if versions := versions_in(home) if not version else []:
                places |= dict.fromkeys(home / version for version in versions)
            elif found := meant_by(tag, home):
                places[home / found] = None
            else:
                self._own(tag)  # says why it is not
        return builtins.list(places)

    def prune(self) -> builtins.list[Path]:
        """Delete what processes that died have left behind; return what it was.

        Raises:
            StoreError: The disk refuses.
        """
        try:
            return left_over(self.root) if self.root.is_dir() else []
        except OSError as exc:
            raise StoreError(f"cannot prune {self.root}: {exc.strerror or exc}") from exc

    def _not_found(self, tag: str) -> ModelNotFoundError:
        name, _ = parse_tag(tag)
        known = [f"{name}:{v}" for root in self._roots() for v in versions_in(root / name)]
        known = known or sorted({entry.info["name"] for entry in self.list()})
        return ModelNotFoundError(str(tag), known, str(self.root))

    def _own(self, tag: str) -> StoredModel:
        entry = self.get(tag)
        if entry.path.parent.parent != self.root:
            raise StoreError(f"'{entry.tag}' comes with d2run, and cannot be changed")
        return entry

    def _entries(self, home: Path) -> Iterator[StoredModel]:
        for version in versions_in(home):
            try:
                yield open_entry(home / version)
            except (StoreError, ConfigError) as exc:
                _log.warning("left out: %s", exc)

    def refuse_existing(self, tag: str) -> None:
        """Look whether a new version could have a tag.

        Raises:
            ConfigError: It is not a tag, or ``latest``.
            ModelExistsError: The name has this version, or an alias of that name.
        """
        name, version = parse_tag(tag)
        if ":" not in tag:
            return
        check_version(version)
        place = self.root / name / version
        if place.exists() or place.is_symlink():
            what = "a version" if place.is_dir() else "an alias"
            raise ModelExistsError(f"the store has {what} '{tag}' already ({place})")

    def _roots(self) -> Iterator[Path]:
        yield self.root
        if self.root != BUNDLED:
            yield BUNDLED


def _in_utc(when: datetime) -> datetime:
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)


def _refuse_aliased(home: Path, places: list[Path]) -> None:
    for alias, version in aliases_in(home).items():
        if home / version in places:
            raise StoreError(
                f"the alias '{home.name}:{alias}' stands for '{home.name}:{version}'; remove or "
                "move the alias first"
            )
