"""Custom objects and external modules: the only parts of a stored model that run code.

The objects are a pickle, which can call anything; the modules are Python. Neither is loaded unless
the model was opened with ``trust=True``, and the error message says what code would run.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import pickle
import pickletools
import sys
import zipfile
import zipimport
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import ConfigError, StoreError, UntrustedModelError
from pipeline.store.disk.version import CUSTOM_OBJECTS, EXTERNAL_MODULES, ModelVersion

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest in zip; the same content gives the same bytes
_SHOWN = 8  # names in a message
_MAX_STEPS = 1_000_000  # of a pickle that is inspected


def pack_custom(
    objects: Mapping[str, Any] | None, modules: Iterable[ModuleType] | None
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files with custom objects and modules, and their keys in ``model.yaml``.

    Args:
        objects: Objects that cloudpickle supports, by name.
        modules: Modules whose source is saved with the model; of a package, all modules.

    Raises:
        ConfigError: An object cannot be pickled, or a module has no source.
    """
    files: dict[str, bytes] = {}
    keys: dict[str, Any] = {}
    if objects:
        files[CUSTOM_OBJECTS] = _pickled(dict(objects))
        keys["custom_objects"] = [str(name) for name in objects]
    packages = {_package(module).__name__: _package(module) for module in modules or ()}
    if packages:
        files[EXTERNAL_MODULES] = _zipped([_sources(module) for module in packages.values()])
        keys["external_modules"] = sorted(packages)
    return files, keys


def load_custom_objects(model: ModelVersion) -> dict[str, Any]:
    """Return the objects that were saved with a model; see ``StoredModel.custom_objects``."""
    if CUSTOM_OBJECTS not in model.info["files"]:
        return {}
    data = model.file(CUSTOM_OBJECTS).read_bytes()
    if not model.trust:
        raise UntrustedModelError(
            f"the custom objects of '{model.tag}' ({', '.join(model.info['custom_objects'])}) are "
            f"a pickle that would run {_globals(data)}. If you trust its author, open the model "
            "with trust=True"
        )
    import_modules(model)
    try:
        objects = pickle.loads(data)
    except Exception as exc:
        raise StoreError(
            f"the custom objects of '{model.tag}' cannot be loaded here ({type(exc).__name__}: "
            f"{exc}); install what they were saved with: {model.info['context']['versions']}"
        ) from exc
    return dict(objects)


def import_modules(model: ModelVersion) -> None:
    """Import the Python modules that were saved with a model.

    Raises:
        UntrustedModelError: The model was opened without ``trust=True``.
        StoreError: Another module of that name is imported, or a module fails.
    """
    names = list(model.info.get("external_modules", []))
    if not names:
        return
    if not model.trust:
        raise UntrustedModelError(
            f"'{model.tag}' requires its own Python modules ({', '.join(names)}), whose code would "
            "run. If you trust its author, load it with trust=True (model.trust=true)"
        )
    archive = model.file(EXTERNAL_MODULES)
    importer = zipimport.zipimporter(str(archive))
    importer.invalidate_caches()  # the path may have had another model before
    for name in names:
        if name in sys.modules:
            _compare(sys.modules[name], archive, model)
            continue
        spec = importer.find_spec(name)
        if spec is None or spec.loader is None:
            raise StoreError(
                f"the module '{name}' is missing in '{model.tag}'; save the model again"
            )
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as exc:
            del sys.modules[name]
            if not isinstance(exc, Exception):
                raise
            raise StoreError(
                f"the module '{name}' of '{model.tag}' cannot be imported here: "
                f"{type(exc).__name__}: {exc}"
            ) from exc


def _pickled(objects: dict[str, Any]) -> bytes:
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(objects)
    except Exception as exc:
        raise ConfigError(f"custom_objects cannot be pickled: {type(exc).__name__}: {exc}") from exc
    return data


def _globals(data: bytes) -> str:
    """Return the names that a pickle would import, without loading it."""
    names: dict[str, None] = {}
    texts: list[str] = []
    memo: dict[Any, str] = {}
    count = 0
    latest = ""  # the last value, if that was text
    try:
        for opcode, argument, _ in islice(pickletools.genops(data), _MAX_STEPS):
            if opcode.name == "STACK_GLOBAL":
                names[".".join(texts[-2:])] = None
            elif opcode.name in ("GLOBAL", "INST"):
                names[str(argument).replace(" ", ".")] = None
            elif "PUT" in opcode.name or opcode.name == "MEMOIZE":
                memo[count if argument is None else int(argument)] = latest
                count += 1
                continue
            latest = str(argument) if "UNICODE" in opcode.name else ""
            if "GET" in opcode.name:
                latest = memo.get(int(argument or 0), "")
            texts += [latest] * bool(latest)
    except Exception:
        names["unknown code, because it is damaged"] = None
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (" and more" if len(names) > _SHOWN else "") or "no code"


def _package(module: ModuleType) -> ModuleType:
    if not isinstance(module, ModuleType):
        raise ConfigError(
            f"external_modules: expected modules, as after 'import my_heads', got {module!r:.80}"
        )
    return importlib.import_module(module.__name__.partition(".")[0])


def _sources(module: ModuleType) -> dict[str, bytes]:
    """Return the sources of a module, or of all modules of a package, by path in the archive."""
    name = module.__name__
    loader = getattr(module, "__loader__", None)
    if isinstance(loader, zipimport.zipimporter):  # the module was imported from a stored model
        with zipfile.ZipFile(loader.archive) as archive:
            mine = [n for n in archive.namelist() if n == f"{name}.py" or n.startswith(f"{name}/")]
            return {path: archive.read(path) for path in mine}
    folders = [Path(path) for path in getattr(module, "__path__", ())]
    found = {
        f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
    }
    file = getattr(module, "__file__", None)
    if not folders and file and name != "__main__" and Path(file).suffix == ".py":
        found[f"{name}.py"] = Path(file).read_bytes()
    if not found:
        raise ConfigError(
            f"external_modules: '{name}' has no Python source; move the code that the model "
            "requires to a .py file and import that"
        )
    return found


def _zipped(modules: list[dict[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, source in sorted(item for module in modules for item in module.items()):
            info = zipfile.ZipInfo(path, _EPOCH)
            info.external_attr = 0o644 << 16
            archive.writestr(info, source, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _compare(module: ModuleType, archive: Path, model: ModelVersion) -> None:
    name = module.__name__
    with zipfile.ZipFile(archive) as stored:
        paths = [p for p in stored.namelist() if p == f"{name}.py" or p.startswith(f"{name}/")]
        if {path: stored.read(path) for path in paths} != _sources(module):
            raise StoreError(
                f"'{model.tag}' has its own module '{name}', but another of that name is imported "
                f"from {getattr(module, '__file__', '?')}; load the model in another process"
            )
