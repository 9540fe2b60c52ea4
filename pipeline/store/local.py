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
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import (
    ConfigError,
    ModelExistsError,
    ModelNotFoundError,
    StoreError,
)
from pipeline.files import write_whole
from pipeline.store.config_file import parse_yaml
from pipeline.store.entry import (
    CONFIG,
    WEIGHTS,
    StoredModel,
    context,
    open_entry,
    plain,
    seal,
    write_weights,
)
from pipeline.store.plain import plain_labels, plain_metadata, plain_signatures
from pipeline.store.pointers import aliases_in, latest_of, versions_in
from pipeline.store.staging import left_over, locked, removed, staged
from pipeline.store.tags import LATEST, check_name, check_version, is_name, parse_tag
from pipeline.types import Categories

if TYPE_CHECKING:
    from torch import Tensor

BUNDLED = Path(__file__).with_name("bundled")  # models that come with d2run, read-only

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
        self.root = Path(root if root is not None else f"{home}/models").expanduser().absolute()
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
        name, version = parse_tag(tag)
        now = datetime.now(timezone.utc)
        version = version or f"{now:%Y%m%dt%H%M%S%f}-{secrets.token_hex(3)}"
        check_version(version)
        parse_yaml(config_yaml, "the config")
        info = {
            "name": name,
            "version": version,
            "module": "pipeline.store",
            "created": (created or now).isoformat(timespec="microseconds"),
            "kind": kind,
            "labels": plain_labels(labels),
            "metadata": plain_metadata(metadata),
            "signatures": plain_signatures(signatures),
            "context": context(),
            "categories": plain(categories),
            **(more or {}),
        }
        try:
            self._refuse_existing(name, version)
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
        with locked(home) as descriptor:
            self._refuse_existing(name, version)
            before = versions_in(home)
            folder.rename(home / version)
            os.fsync(descriptor)
            entry = open_entry(home / version)
            latest = open_entry(home / latest_of(home, before)) if before else entry
            if entry.info["created"] >= latest.info["created"]:
                write_whole(home / LATEST, version)
                os.fsync(descriptor)
        return entry

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
        name, wanted = parse_tag(tag)
        for home in (root / name for root in self._roots()):
            versions = versions_in(home)
            if versions and wanted in ("", LATEST):
                return open_entry(home / latest_of(home, versions), trust=trust)
            begun = [version for version in versions if version.startswith(wanted)]
            meant = wanted if wanted in versions else aliases_in(home).get(wanted)
            if meant or len(begun) == 1:
                return open_entry(home / (meant or begun[0]), trust=trust)
            if begun:
                raise StoreError(
                    f"'{tag}' is the beginning of several versions, {', '.join(begun)}; "
                    "write more of it"
                )
        known = [
            f"{name}:{version}" for root in self._roots() for version in versions_in(root / name)
        ]
        known = known or sorted({entry.info["name"] for entry in self.list()})
        raise ModelNotFoundError(str(tag), known, str(self.root))

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
            homes = sorted(root.iterdir()) if root.is_dir() else []
            for home in homes:
                if is_name(home.name) and name in (None, home.name):
                    for entry in self._entries(home):
                        found.setdefault(entry.tag, entry)
        wanted = dict(labels or {}).items()
        chosen = [entry for entry in found.values() if wanted <= entry.info["labels"].items()]
        return sorted(chosen, key=lambda e: (e.info["name"], e.info["created"]))

    def tags(self) -> builtins.list[str]:
        """Return the tags of all versions, of the damaged too."""
        names = sorted(home.name for home in self.root.iterdir()) if self.root.is_dir() else []
        homes = [self.root / name for name in names if is_name(name)]
        return [f"{home.name}:{version}" for home in homes for version in versions_in(home)]

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

    def delete(self, tag: str) -> builtins.list[str]:
        """Delete one version, or with a bare name all of them; return their tags.

        Raises:
            ModelNotFoundError: There is no such model.
            StoreError: An alias stands for it, it comes with d2run, or the disk refuses.
        """
        entries = self.meant(tag)
        home = entries[0].path.parent
        hidden = []
        try:
            with locked(home) as descriptor:
                used = {version: alias for alias, version in aliases_in(home).items()}
                for entry in entries:
                    if alias := used.get(entry.path.name):
                        raise StoreError(
                            f"the alias '{home.name}:{alias}' stands for '{entry.tag}'; remove or "
                            "move the alias first"
                        )
                for entry in entries:
                    if entry.path.exists():
                        hidden.append(removed(entry.path))
                versions = versions_in(home)
                if versions:
                    write_whole(home / LATEST, latest_of(home, versions))
                else:
                    (home / LATEST).unlink(missing_ok=True)
                os.fsync(descriptor)
            for folder in hidden:
                shutil.rmtree(folder)
        except OSError as exc:
            raise StoreError(f"cannot delete '{tag}': {exc.strerror or exc}") from exc
        return [entry.tag for entry in entries]

    def meant(self, tag: str) -> builtins.list[StoredModel]:
        """Return what a deletion of ``tag`` would delete."""
        name, version = parse_tag(tag)
        own = [entry for entry in self.list(name) if entry.path.parent.parent == self.root]
        return own if own and not version else [self._own(tag)]

    def prune(self) -> builtins.list[Path]:
        """Delete what processes that died have left behind; return what it was.

        Raises:
            StoreError: The disk refuses.
        """
        try:
            return left_over(self.root) if self.root.is_dir() else []
        except OSError as exc:
            raise StoreError(f"cannot prune {self.root}: {exc.strerror or exc}") from exc

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

    def _refuse_existing(self, name: str, version: str) -> None:
        check_name(name)
        check_version(version)
        place = self.root / name / version
        if place.exists() or place.is_symlink():
            what = "a version" if place.is_dir() else "an alias"
            raise ModelExistsError(f"the store has {what} '{name}:{version}' already ({place})")

    def _roots(self) -> Iterator[Path]:
        yield self.root
        if self.root != BUNDLED:
            yield BUNDLED
