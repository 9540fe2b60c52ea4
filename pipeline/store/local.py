"""The store on the local disk: one directory a version, written whole, verified when loaded.

```
<root>/<name>/latest                       the newest version's name
<root>/<name>/<version>/model.yaml         what it is, and the size and SHA-256 of each file below
<root>/<name>/<version>/config.yaml        Detectron2's CfgNode as plain YAML
<root>/<name>/<version>/weights.safetensors
<root>/.downloads/<host>/<path>            weights from the network
```
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    INFO,
    WEIGHTS,
    StoredModel,
    context,
    open_entry,
    plain,
    seal,
    write_weights,
)
from pipeline.types import Categories

if TYPE_CHECKING:
    from torch import Tensor

BUNDLED = Path(__file__).with_name("bundled")  # models that come with d2run, read-only
_LATEST = "latest"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


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
        name: str,
        *,
        config_yaml: str,
        weights: Mapping[str, Tensor],
        categories: Categories,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        signatures: Mapping[str, Any] | None = None,
        kind: str = "predictor",
        version: str | None = None,
    ) -> StoredModel:
        """Write a new version and make it the latest; on an error nothing is left behind.

        Args:
            name: Lower-case letters, digits, ``.``, ``_`` and ``-``.
            config_yaml: Detectron2's ``CfgNode.dump()``.
            weights: Tensors by name.
            categories: What the model can tell apart.
            labels: Words to find it by.
            metadata: Anything else worth keeping, as plain values.
            signatures: Callable methods of the model, as BentoML describes them.
            kind: ``predictor`` or ``module``.
            version: By default the time in UTC and a random part.

        Raises:
            ConfigError: A name, the config or the metadata cannot be stored.
            ModelExistsError: The name has this version.
            StoreError: The disk refuses.
        """
        now = datetime.now(timezone.utc)
        version = version or f"{now:%Y%m%dt%H%M%S%f}-{secrets.token_hex(3)}"
        _check_name(name)
        _check_version(version)
        parse_yaml(config_yaml, "the config")
        info = {
            "name": name,
            "version": version,
            "module": "pipeline.store",
            "created": now.isoformat(timespec="microseconds"),
            "kind": kind,
            "labels": dict(labels or {}),
            "metadata": dict(metadata or {}),
            "signatures": dict(signatures or {"__call__": {"batchable": False}}),
            "context": context(),
            "categories": plain(categories),
        }
        final = self.root / name / version
        try:
            if final.exists():
                raise ModelExistsError(f"the store has '{name}:{version}' already ({final})")
            with _staging(final.parent) as staging:
                (staging / CONFIG).write_text(config_yaml, encoding="utf-8")
                write_weights(staging / WEIGHTS, weights)
                seal(staging, info)
                _publish(staging, final)
        except OSError as exc:
            raise StoreError(f"cannot save '{name}:{version}' in {self.root}: {exc}") from exc
        return open_entry(final)

    def get(self, tag: str) -> StoredModel:
        """Find ``name``, ``name:latest``, ``name:version`` or a unique beginning of a version.

        Models that come with d2run are found too, unless the user's own have that tag.

        Raises:
            ConfigError: It is not a tag.
            ModelNotFoundError: There is no such model.
            StoreError: The beginning is that of several versions.
            ModelCorruptError: Its ``model.yaml`` is damaged.
        """
        name, _, wanted = tag.partition(":")
        _check_name(name)
        if wanted not in ("", _LATEST):
            _check_version(wanted)
        for root in self._roots():
            versions = _versions(root / name)
            if versions and wanted in ("", _LATEST):
                return open_entry(root / name / _latest(root / name, versions))
            begun = [version for version in versions if version.startswith(wanted)]
            if wanted in versions or len(begun) == 1:
                return open_entry(root / name / (wanted if wanted in versions else begun[0]))
            if begun:
                raise StoreError(
                    f"'{tag}' is the beginning of several versions, {', '.join(begun)}; "
                    "write more of it"
                )
        known = [
            f"{name}:{version}" for root in self._roots() for version in _versions(root / name)
        ]
        known = known or sorted({entry.info["name"] for entry in self.list()})
        raise ModelNotFoundError(tag, known, str(self.root))

    def list(self, name: str | None = None) -> list[StoredModel]:
        """Return all versions of all models, or of one, oldest first within a name.

        Raises:
            ModelCorruptError: An entry's ``model.yaml`` is damaged.
        """
        found: dict[str, StoredModel] = {}
        for root in self._roots():
            folders = sorted(root.iterdir()) if root.is_dir() else []
            for folder in folders:
                if _NAME.fullmatch(folder.name) and name in (None, folder.name):
                    entries = [open_entry(folder / version) for version in _versions(folder)]
                    for entry in entries:
                        found.setdefault(entry.tag, entry)
        return sorted(found.values(), key=lambda e: (e.info["name"], e.info["created"]))

    def _roots(self) -> Iterator[Path]:
        yield self.root
        if self.root != BUNDLED:
            yield BUNDLED


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a stored model: use a-z, 0-9, '.', '_', '-', at most 63, "
            "beginning with a letter or digit"
        )


def _check_version(version: str) -> None:
    if not _NAME.fullmatch(version) or version == _LATEST:
        raise ConfigError(
            f"{version!r} cannot be a version: use a-z, 0-9, '.', '_', '-', at most 63, "
            "beginning with a letter or digit, and not 'latest'"
        )


def _versions(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if _NAME.fullmatch(entry.name) and (entry / INFO).is_file()
    )


def _latest(folder: Path, versions: list[str]) -> str:
    pointer = folder / _LATEST
    version = pointer.read_text(encoding="utf-8", errors="replace") if pointer.is_file() else ""
    if version in versions:
        return version
    # a crash between the two renames of a save, or a version deleted by hand
    return max(versions, key=lambda name: str(open_entry(folder / name).info["created"]))


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Make a sibling of the versions; remove it unless it was renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".staging-{os.getpid()}-{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, final: Path) -> None:
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # whoever renames last is the latest, and says so
        if final.exists():
            raise ModelExistsError(f"the store has '{final.parent.name}:{final.name}' already")
        staging.rename(final)
        write_whole(final.parent / _LATEST, final.name)
        os.fsync(folder)
    finally:
        os.close(folder)
