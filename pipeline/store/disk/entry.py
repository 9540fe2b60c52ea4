"""One version of a model on the disk: sealed when it is written, verified when it is loaded.

The last line of ``model.yaml`` is the SHA-256 of all before it, which has the size and SHA-256 of
every other file; so one digest covers everything.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelCorruptError, StoreError
from pipeline.models.plain_yaml import MAX_BYTES
from pipeline.records import Categories
from pipeline.store.disk.info import ModelInfo, sealed
from pipeline.store.disk.tags import Tag
from pipeline.system.files import read_regular, sha256_file

if TYPE_CHECKING:
    from detectron2.engine import DefaultPredictor
    from torch import Tensor, nn

    from pipeline.store.api.runnable import LocalRunner

INFO = "model.yaml"
CONFIG = "config.yaml"
WEIGHTS = "weights.safetensors"
SELFTEST = "selftest.npz"
CUSTOM_OBJECTS = "custom_objects.pkl"
EXTERNAL_MODULES = "external_modules.zip"
FILE_NAME = re.compile(r"[a-z][a-z0-9_.]{0,62}")


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One version of a model in the store.

    Attributes:
        tag: ``name:version``; a text with the attributes ``name`` and ``version``.
        path: Its directory.
        info: The content of its ``model.yaml``, as a mapping and as attributes.
        trust: Whether its custom objects and modules may run their code here.
    """

    tag: Tag
    path: Path
    info: ModelInfo
    trust: bool = field(default=False, compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 over everything in it, in hexadecimal digits."""
        return str(self.info["digest"])

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(int(file["size"]) for file in self.info["files"].values())

    @property
    def categories(self) -> Categories:
        """What it can tell apart.

        Raises:
            ModelCorruptError: They are not what d2run writes.
        """
        try:
            return read_categories(self.info["categories"])
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise ModelCorruptError(f"the class names of '{self.tag}' are damaged: {exc}") from exc

    @property
    def custom_objects(self) -> dict[str, Any]:
        """The objects that were saved with it; empty if there are none.

        Raises:
            UntrustedModelError: It was not got with ``trust=True``; says what would run.
            ModelCorruptError: The file differs from what was saved.
        """
        from pipeline.store.api.custom import load_custom_objects

        return load_custom_objects(self)

    def load_model(self, device_id: str = "cpu") -> DefaultPredictor | nn.Module:
        """Return the model on a device; see ``pipeline.store.load_model``."""
        from pipeline.store.api.predictor import load_model

        return load_model(self, device_id, trust=self.trust)

    def to_runnable(self) -> type:
        """Return a class with one method a signature; see ``pipeline.store.get_runnable``."""
        from pipeline.store.api.runnable import get_runnable

        return get_runnable(self)

    def to_runner(self, name: str = "") -> LocalRunner:
        """Return the model as BentoML's users call it: ``init_local()``, then ``run(image)``."""
        from pipeline.store.api.runnable import LocalRunner

        return LocalRunner(self, name or str(self.info["name"]))

    def verify(self) -> None:
        """Compare every file with its size and SHA-256 as saved.

        Raises:
            ModelCorruptError: A file differs, is missing, or does not belong there.
        """
        files = self.info["files"]
        if strange := [name for name in files if not FILE_NAME.fullmatch(name)]:
            raise ModelCorruptError(f"'{INFO}' of '{self.tag}' names a file {strange[0]!r}")
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
        try:
            whole = path.is_file() and not path.is_symlink()
            whole = whole and path.stat().st_size == saved["size"]
            whole = whole and sha256_file(path) == saved["sha256"]
        except OSError as exc:
            raise StoreError(f"cannot read '{path}': {exc.strerror or exc}") from exc
        if not whole:
            raise ModelCorruptError(
                f"'{name}' of the stored model '{self.tag}' differs from what was saved; "
                f"delete {self.path} and save the model again"
            )
        return path


def open_entry(path: Path, *, trust: bool = False) -> StoredModel:
    """Read the ``model.yaml`` of a version's directory.

    Raises:
        ModelCorruptError: It differs from what was saved, or lies under another name.
        StoreError: It cannot be read.
    """
    entry = read_entry(path, trust=trust)
    if entry.tag != f"{path.parent.name}:{path.name}":
        raise ModelCorruptError(f"{path} holds the model '{entry.tag}'")
    return entry


def read_entry(path: Path, *, trust: bool = False) -> StoredModel:
    """Read the ``model.yaml`` of a directory that may have any name."""
    try:
        info = ModelInfo(read_regular(path / INFO, MAX_BYTES), f"'{path / INFO}'")
    except OSError as exc:
        raise StoreError(f"cannot read '{path / INFO}': {exc.strerror or exc}") from exc
    return StoredModel(info.tag, path, info, trust)


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
    (folder / INFO).write_bytes(sealed({**info, "files": files}))
    sync(folder)


def sync(folder: Path) -> None:
    """Have the disk keep a folder and the files in it."""
    for path in (*sorted(folder.iterdir()), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def plain(categories: Categories) -> dict[str, Any]:
    """Return categories as ``model.yaml`` holds them."""
    return {name: _lists(value) for name, value in asdict(categories).items()}


def read_categories(stored: Mapping[str, Any]) -> Categories:
    """Return what ``plain`` wrote."""
    if not all(isinstance(values, (list, tuple)) for values in stored.values()):
        raise TypeError("they are not lists")
    fields = {name: tuple(values) for name, values in stored.items() if name != "skeleton"}
    return Categories(**fields, skeleton=tuple((a, b) for a, b in stored["skeleton"]))


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
