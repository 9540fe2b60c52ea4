"""Imports Python modules whose source is in memory.

Models that are exported for BentoML contain the source of this module, because d2run is not
installed there. So it imports only the standard library, and works in every Python from 3.9.
"""

from __future__ import annotations

import importlib
import logging
import sys
from importlib import metadata
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import decode_source, spec_from_file_location
from typing import Any


class SourceFinder(MetaPathFinder, ExecutionLoader):
    """Finds and loads modules, before those of the same name on ``sys.path``.

    Args:
        files: Sources by path, such as ``pkg/heads.py``.
        origin: Directory or archive that ``__file__`` and tracebacks show.
    """

    def __init__(self, files: dict[str, bytes], origin: str) -> None:
        self.files = files
        self.origin = origin

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return where a module comes from; ``None`` if it is not one of the files."""
        if file := self._file(name):
            folder = [f"{self.origin}/{file.rpartition('/')[0]}"] if self.is_package(name) else None
            location = f"{self.origin}/{file}"
            return spec_from_file_location(
                name, location, loader=self, submodule_search_locations=folder
            )
        base = name.replace(".", "/")
        is_parent = any(key.startswith(f"{base}/") for key in self.files)
        if not is_parent or PathFinder.find_spec(name, path) is not None:
            return None
        # without an __init__.py, and no installed package shares it
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [f"{self.origin}/{base}"]
        return spec

    def is_package(self, name: str) -> bool:
        """Return whether a module is a package."""
        return self._file(name).endswith("/__init__.py")

    def get_filename(self, name: str) -> str:
        """Return the path that tracebacks show."""
        return f"{self.origin}/{self._file(name)}"

    def get_source(self, name: str) -> str:
        """Return the source of a module, for importing, tracebacks and TorchScript."""
        return decode_source(self.files[self._file(name)])

    def _file(self, name: str) -> str:
        base = name.replace(".", "/")
        paths = (f"{base}/__init__.py", f"{base}.py")
        return next((path for path in paths if path in self.files), "")


def import_modules(
    names: list[str], files: dict[str, bytes], requirements: list[str], origin: str
) -> None:
    """Import modules from their sources, or from the installed packages that they belong to.

    Args:
        names: The modules, in this order; those without a source are installed.
        files: Sources by path.
        requirements: The packages, as ``name==version``.
        origin: What the sources belong to, for messages and tracebacks.

    Raises:
        ImportError: A package is not installed, another module of a name is imported, or a module
            fails. Nothing remains imported.
    """
    for requirement in requirements:
        _check_requirement(requirement)
    finder = SourceFinder(files, origin)
    for path in files:
        name = path[: -len(".py")].replace("/", ".")
        name = name[: -len(".__init__")] if name.endswith(".__init__") else name
        if name in sys.modules and _source(sys.modules[name]) != finder.get_source(name):
            file = getattr(sys.modules[name], "__file__", "?")
            raise ImportError(
                f"the model has its own module '{name}', but another of that name is imported from "
                f"{file}; load the model in another process"
            )
    if all(name in sys.modules for name in names):
        return
    sys.meta_path.insert(0, finder)
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as exc:
            sys.meta_path.remove(finder)
            for key, module in list(sys.modules.items()):
                if getattr(module, "__loader__", None) is finder:
                    del sys.modules[key]
            if not isinstance(exc, Exception):
                raise
            raise ImportError(
                f"the module '{name}' cannot be imported here: {type(exc).__name__}: {exc}"
            ) from exc


def _check_requirement(requirement: str) -> None:
    name, _, version = requirement.partition("==")
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        raise ImportError(
            f"the model requires {requirement}, which is not installed: pip install '{requirement}'"
        ) from None
    if installed != version:
        logging.getLogger(__name__).warning(
            "the model was saved with %s, but %s %s is installed", requirement, name, installed
        )


def _source(module: Any) -> str | None:
    try:
        source: str | None = module.__spec__.loader.get_source(module.__name__)
    except (AttributeError, ImportError):
        return None
    return source
