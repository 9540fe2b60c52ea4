"""One version of a model on the disk: sealed when it is written, verified when it is loaded.

The last line of ``model.yaml`` is the SHA-256 of all before it, which has the size and SHA-256 of
every other file; so one digest covers everything.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from pipeline.errors import ConfigError, ModelCorruptError, StoreError
from pipeline.files import sha256_file
from pipeline.store.config_file import parse_yaml
from pipeline.types import Categories

if TYPE_CHECKING:
    from torch import Tensor

INFO = "model.yaml"
CONFIG = "config.yaml"
WEIGHTS = "weights.safetensors"
_SEALED = re.compile(rb"(?P<body>.*\n)digest: (?P<digest>[0-9a-f]{64})\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One version of a model in the store.

    Attributes:
        tag: ``name:version``.
        path: Its directory.
        info: The content of its ``model.yaml``.
    """

    tag: str
    path: Path
    info: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 over everything in it, in hexadecimal digits."""
        return str(self.info["digest"])

    @property
    def categories(self) -> Categories:
        """What it can tell apart."""
        stored = self.info["categories"]
        fields = {name: tuple(values) for name, values in stored.items() if name != "skeleton"}
        return Categories(**fields, skeleton=tuple((a, b) for a, b in stored["skeleton"]))

    def verify(self) -> None:
        """Compare every file with its size and SHA-256 as saved.

        Raises:
            ModelCorruptError: A file differs, is missing, or does not belong there.
        """
        files = self.info["files"]
        present = {entry.name for entry in self.path.iterdir()} - {INFO}
        for problem, names in (
            ("lacks", set(files) - present),
            ("holds something that was not saved with it:", present - set(files)),
        ):
            if names:
                raise ModelCorruptError(
                    f"the stored model '{self.tag}' {problem} {', '.join(sorted(names))} "
                    f"({self.path})"
                )
        for name in files:
            self.file(name)

    def file(self, name: str) -> Path:
        """Return the path of one of its files, compared with its size and SHA-256 as saved.

        Raises:
            ModelCorruptError: It differs.
        """
        path, saved = self.path / name, self.info["files"][name]
        # the size first: it is free, and tells the commonest damage
        whole = path.is_file() and path.stat().st_size == saved["size"]
        if not whole or sha256_file(path) != saved["sha256"]:
            raise ModelCorruptError(
                f"'{name}' of the stored model '{self.tag}' differs from what was saved; "
                f"delete {self.path} and save the model again"
            )
        return path


def open_entry(path: Path) -> StoredModel:
    """Read the ``model.yaml`` of a version's directory.

    Raises:
        ModelCorruptError: It differs from what was saved.
        StoreError: It cannot be read.
    """
    tag = f"{path.parent.name}:{path.name}"
    try:
        sealed = _SEALED.fullmatch((path / INFO).read_bytes())
    except OSError as exc:
        raise StoreError(f"cannot read '{tag}' in the store: {exc}") from exc
    if not sealed or hashlib.sha256(sealed["body"]).hexdigest().encode() != sealed["digest"]:
        raise ModelCorruptError(f"'{INFO}' of the stored model '{tag}' is damaged ({path})")
    info = parse_yaml(sealed[0].decode(), str(path / INFO))
    if tag != f"{info.get('name')}:{info.get('version')}":
        raise ModelCorruptError(
            f"{path} holds the model '{info.get('name')}:{info.get('version')}'"
        )
    return StoredModel(tag, path, info)


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors as ``.safetensors``."""
    from safetensors.torch import save

    # copies, as a safetensors file takes no two names for one memory
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    # not save_file, which lets nobody but the user read what others may share
    path.write_bytes(save(tensors, metadata={"format": "pt"}))


def seal(folder: Path, info: Mapping[str, Any]) -> None:
    """Write ``model.yaml`` over the files that are in the folder, and sync them all to the disk."""
    paths = sorted(folder.iterdir())
    files = {p.name: {"size": p.stat().st_size, "sha256": sha256_file(p)} for p in paths}
    try:
        body = yaml.safe_dump({**info, "files": files}, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as exc:
        raise ConfigError(f"labels, metadata and signatures must be plain values: {exc}") from exc
    digest = hashlib.sha256(body.encode()).hexdigest()
    (folder / INFO).write_bytes(f"{body}digest: {digest}\n".encode())
    for path in (*paths, folder / INFO, folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain(categories: Categories) -> dict[str, Any]:
    """Return categories as ``model.yaml`` holds them."""
    return {name: _lists(value) for name, value in asdict(categories).items()}


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def context() -> dict[str, Any]:
    """Return the versions of what made the model; ``None`` for what is not a distribution."""
    from importlib import metadata as packages

    versions: dict[str, str | None] = {"python": sys.version.split()[0]}
    for package in ("d2run", "detectron2", "torch", "torchvision"):
        try:
            versions[package] = packages.version(package)
        except packages.PackageNotFoundError:
            versions[package] = None
    return {"framework": "detectron2", "versions": versions}
