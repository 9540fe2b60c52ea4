"""One version of a model on disk, sealed when it is written and verified when it is loaded.

The last line of ``model.yaml`` is the SHA-256 of everything above it, and ``model.yaml`` has the
size and SHA-256 of every other file. So one digest covers the whole version.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelCorruptError, StoreError
from pipeline.models.plain_yaml import MAX_BYTES
from pipeline.records import Categories
from pipeline.store.disk.info import ModelInfo, sealed
from pipeline.store.disk.plain import parse_categories
from pipeline.store.disk.tags import Tag
from pipeline.system.files import read_regular, sha256_file, sync_folder

if TYPE_CHECKING:
    from torch import Tensor

INFO = "model.yaml"
CONFIG = "config.yaml"
WEIGHTS = "weights.safetensors"
SELFTEST = "selftest.npz"
CUSTOM_OBJECTS = "custom_objects.pkl"
EXTERNAL_MODULES = "external_modules.zip"
FILE_NAME = re.compile(r"[a-z][a-z0-9_.]{0,62}")


@dataclass(frozen=True, slots=True, repr=False)
class ModelVersion:
    """One version of a model. Versions are equal if their tags and paths are.

    Attributes:
        tag: ``name:version``; a string with the attributes ``name`` and ``version``.
        path: Directory of the version.
        info: The content of its ``model.yaml``, as a mapping and as attributes.
        trust: Whether the model's custom objects and modules may run code in this process.
    """

    tag: Tag
    path: Path
    info: ModelInfo = field(compare=False)
    trust: bool = field(default=False, compare=False)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(tag="{self.tag}", path="{self.path}")'

    @property
    def digest(self) -> str:
        """SHA-256 of everything in it, in hexadecimal digits."""
        return str(self.info["digest"])

    @property
    def size(self) -> int:
        """Total size of its files, in bytes."""
        return sum(int(file["size"]) for file in self.info["files"].values())

    @property
    def categories(self) -> Categories:
        """The classes that it distinguishes.

        Raises:
            ModelCorruptError: The class names are damaged.
        """
        try:
            return parse_categories(self.info["categories"])
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise ModelCorruptError(
                f"the class names of '{self.tag}' are damaged ({exc}); save the model again"
            ) from exc

    def verify(self) -> None:
        """Compare every file with its saved size and SHA-256.

        Raises:
            ModelCorruptError: A file differs, is missing, or was added.
        """
        files = self.info["files"]
        if invalid := [name for name in files if not FILE_NAME.fullmatch(name)]:
            raise ModelCorruptError(
                f"the {INFO} of '{self.tag}' names an invalid file: {invalid[0]!r}"
            )
        present = {file.name for file in self.path.iterdir()} - {INFO}
        for problem, names in (
            ("has missing files", set(files) - present),
            ("has files that were not saved with it", present - set(files)),
        ):
            if names:
                raise ModelCorruptError(
                    f"the stored model '{self.tag}' {problem}: {', '.join(sorted(names))} "
                    f"({self.path})"
                )
        for name in files:
            self.file(name)

    def file(self, name: str) -> Path:
        """Return the path of one of its files, after comparing it with its saved size and SHA-256.

        Raises:
            ModelCorruptError: The file differs.
        """
        path, saved = self.path / name, self.info["files"][name]
        # the size first, because it costs nothing and shows the most common damage
        try:
            intact = path.is_file() and not path.is_symlink()
            intact = intact and path.stat().st_size == saved["size"]
            intact = intact and sha256_file(path) == saved["sha256"]
        except OSError as exc:
            raise StoreError(f"cannot read '{path}': {exc.strerror or exc}") from exc
        if not intact:
            raise ModelCorruptError(
                f"'{name}' of the stored model '{self.tag}' differs from what was saved; delete "
                f"{self.path} and save the model again"
            )
        return path


def open_version(path: Path, *, trust: bool = False) -> ModelVersion:
    """Read the version in a directory of the store.

    Raises:
        ModelCorruptError: Its ``model.yaml`` is damaged or has another tag.
        StoreError: It cannot be read.
    """
    model = read_version(path, trust=trust)
    if model.tag != f"{path.parent.name}:{path.name}":
        raise ModelCorruptError(
            f"{path} contains the model '{model.tag}'; rename the directory to match"
        )
    return model


def read_version(path: Path, *, trust: bool = False) -> ModelVersion:
    """Read the version in a directory of any name."""
    try:
        info = ModelInfo(read_regular(path / INFO, MAX_BYTES), f"'{path / INFO}'")
    except OSError as exc:
        raise StoreError(f"cannot read '{path / INFO}': {exc.strerror or exc}") from exc
    return ModelVersion(info.tag, path, info, trust)


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors as ``.safetensors``."""
    from safetensors.torch import save

    # copies, because safetensors rejects two names for the same memory
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    # not save_file, whose files only the user can read
    path.write_bytes(save(tensors, metadata={"format": "pt"}))


def seal(folder: Path, info: Mapping[str, Any]) -> None:
    """Write ``model.yaml`` for the files in a directory, and make everything durable."""
    paths = sorted(folder.iterdir())
    files = {p.name: {"size": p.stat().st_size, "sha256": sha256_file(p)} for p in paths}
    (folder / INFO).write_bytes(sealed({**info, "files": files}))
    sync_files(folder)


def sync_files(folder: Path) -> None:
    """Make a directory and the files in it durable."""
    for path in sorted(folder.iterdir()):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)
