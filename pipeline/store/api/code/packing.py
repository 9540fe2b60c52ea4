"""Decides what of a user's modules is saved with a model: their source, or a requirement."""

from __future__ import annotations

import ast
import importlib
import os
import sys
import sysconfig
import zipfile
import zipimport
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path, PurePath, PurePosixPath
from types import ModuleType

from pipeline.errors import ConfigError
from pipeline.store.api.code.importing import SourceFinder

# d2run cannot run without them, so they are never copied, wherever their source is
_OWN = {"detectron2": "detectron2", "pipeline": "d2run", "runners": "d2run"}


@dataclass(slots=True)
class PackedModules:
    """Modules that a model requires.

    Attributes:
        names: The modules to import, in this order.
        files: The sources of those that are not installed, by path.
        requirements: The installed packages that the others belong to, as ``name==version``.
        compiled: Compiled modules in the packages, whose code is not saved.
    """

    names: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    requirements: list[str] = field(default_factory=list)
    compiled: list[str] = field(default_factory=list)


def pack_modules(modules: Iterable[ModuleType]) -> PackedModules:
    """Return the sources of modules, with all modules of their packages, and their requirements.

    Raises:
        ConfigError: A value is not a module, or has no source that could be saved.
    """
    packed, installed = PackedModules(), Installed()
    for module in modules:
        if not isinstance(module, ModuleType):
            raise ConfigError(
                f"external_modules: expected modules, as after 'import my_heads', got "
                f"{module!r:.80}"
            )
        if module.__name__ not in packed.names:
            _pack(module, packed, installed)
    packed.requirements = sorted(set(packed.requirements))
    return packed


def unsaved_modules(names: Iterable[str], files: Mapping[str, bytes]) -> list[str]:
    """Return those of the imported modules that a model would miss in another process.

    Args:
        names: Modules that the model requires; those that ``files`` import are added.
        files: Sources that are saved with it, by path.
    """
    installed = Installed()
    found = {}
    for name in (*names, *(name for source in files.values() for name in _imports(source))):
        top = name.partition(".")[0]
        module = sys.modules.get(top)
        is_saved = f"{top}.py" in files or any(path.startswith(f"{top}/") for path in files)
        if is_saved or module is None or top in _OWN or top in found:
            continue
        file = getattr(module, "__file__", None)
        if file and Path(file).suffix == ".py" and not _is_python(top, file):
            found[top] = installed.owner(file, top) is None
    return sorted(name for name, is_missing in found.items() if is_missing)


class Installed:
    """Finds the installed package that a file belongs to.

    Editable installs are not found: their source is the user's, and can change.
    """

    def owner(self, file: str, top: str) -> str | None:
        """Return ``name==version`` of the package that a module's file belongs to."""
        path = Path(file).absolute()  # not resolved, because installers can write links
        for root, record, found in self._packages:
            if root not in path.parents:
                continue
            if record:
                is_owner = f"\n{path.relative_to(root).as_posix()}," in f"\n{record}"
            else:  # Debian's packages have no RECORD
                known = (found.read_text("top_level.txt") or "").split()
                is_owner = top in known and root.name in ("site-packages", "dist-packages")
            if is_owner:
                return f"{found.metadata['Name']}=={found.version}"
        return None

    @cached_property
    def _packages(self) -> list[tuple[Path, str, metadata.Distribution]]:
        return [
            (Path(str(found.locate_file(""))).absolute(), found.read_text("RECORD") or "", found)
            for found in metadata.distributions()
        ]


def _pack(module: ModuleType, packed: PackedModules, installed: Installed) -> None:
    name = module.__name__
    if name == "__main__":
        raise ConfigError(
            "external_modules: '__main__' is the script or notebook that runs; move the code that "
            "the model requires to a .py file and import that"
        )
    top = name.partition(".")[0]
    file = getattr(module, "__file__", None)
    if _is_python(top, file):
        raise ConfigError(f"external_modules: '{name}' is part of Python; remove it")
    packed.names.append(name)
    if top in _OWN:
        with suppress(metadata.PackageNotFoundError):  # its source is on the path
            packed.requirements.append(f"{_OWN[top]}=={metadata.version(_OWN[top])}")
        return
    if owner := _owner(module, installed):
        packed.requirements.append(owner)
        return
    for parent in _with_parents(module):
        if getattr(parent, "__file__", None) and (owner := _owner(parent, installed)):
            packed.requirements.append(owner)  # the module is the user's, its parent is not
        elif found := _sources(parent, module):
            packed.files |= found
            packed.compiled += _compiled(parent)
            return
    raise ConfigError(
        f"external_modules: '{name}' has no Python source; move the code that the model requires "
        "to a .py file and import that"
    )


def _owner(module: ModuleType, installed: Installed) -> str | None:
    file = getattr(module, "__file__", None)
    for folder in () if file else getattr(module, "__path__", ()):
        file = file or next((str(path) for path in Path(folder).rglob("*.py")), None)
    return installed.owner(file, module.__name__.partition(".")[0]) if file else None


def _with_parents(module: ModuleType) -> Iterator[ModuleType]:
    parts = module.__name__.split(".")
    for count in range(1, len(parts)):
        yield importlib.import_module(".".join(parts[:count]))
    yield module


def _is_python(top: str, file: str | None) -> bool:
    """Return whether a module is one of Python's own."""
    if top not in sys.stdlib_module_names:
        return False
    return file is None or Path(sysconfig.get_path("stdlib")) in Path(file).absolute().parents


def _sources(root: ModuleType, module: ModuleType) -> dict[str, bytes]:
    """Return the sources of a module, or of all modules of a package, by path in the archive.

    Args:
        root: A module, a package, or a namespace without an ``__init__.py``.
        module: The module in it that is required; a namespace can be in several directories, and
            only the one with this module is read.
    """
    base = root.__name__.replace(".", "/")
    loader = root.__spec__.loader if root.__spec__ else None
    if isinstance(loader, SourceFinder):  # the module was imported from a stored model
        top = base.partition("/")[0]
        return {
            path: source
            for path, source in loader.files.items()
            if path == f"{top}.py" or path.startswith(f"{top}/")
        }
    if isinstance(loader, zipimport.zipimporter):
        return _zip_sources(loader, base)
    found = {
        f"{base}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for folder in _folders(root, module)
        for path in sorted(folder.rglob("*.py"))
        if _is_importable(path.relative_to(folder))
    }
    file = getattr(root, "__file__", None)
    if not found and file and Path(file).suffix == ".py":
        found[f"{base}.py"] = Path(file).read_bytes()
    return found


def _folders(root: ModuleType, module: ModuleType) -> list[Path]:
    folders = [Path(path) for path in getattr(root, "__path__", ())]
    if getattr(root, "__file__", None) or root is module:
        return folders
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return [folder for folder in folders if any(folder in Path(p).parents for p in places)]


def _zip_sources(loader: zipimport.zipimporter, base: str) -> dict[str, bytes]:
    inside = f"{loader.prefix}{base.rpartition('/')[2]}".replace(os.sep, "/")
    with zipfile.ZipFile(loader.archive) as archive:
        return {
            base + path.removeprefix(inside): archive.read(path)
            for path in archive.namelist()
            if path == f"{inside}.py" or (path.startswith(f"{inside}/") and path.endswith(".py"))
            if _is_importable(PurePosixPath(path.removeprefix(loader.prefix)))
        }


def _is_importable(path: PurePath) -> bool:
    return all(part.isidentifier() for part in path.with_suffix("").parts)


def _compiled(root: ModuleType) -> list[str]:
    return [
        str(path)
        for folder in getattr(root, "__path__", ())
        for path in sorted(Path(folder).rglob("*"))
        if path.name.endswith(tuple(EXTENSION_SUFFIXES))
    ]


def _imports(source: bytes) -> Iterator[str]:
    """Return the absolute names of modules that a source imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
