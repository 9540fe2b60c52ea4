"""Custom objects and external modules: the only parts of a stored model that run code.

The objects are a pickle, which may call anything; the modules are Python. Neither is touched unless
the model is got with ``trust=True``, and the refusal says what would run.
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
from pipeline.store.disk.entry import CUSTOM_OBJECTS, EXTERNAL_MODULES, StoredModel

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip has, so that same content is same bytes
_SHOWN = 8
_MAX_STEPS = 1_000_000  # of a pickle that is not loaded, only looked at


def pack_custom(
    objects: Mapping[str, Any] | None, modules: Iterable[ModuleType] | None
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files that hold a user's objects and modules, and what ``model.yaml`` says.

    Args:
        objects: Anything that cloudpickle takes, by name.
        modules: Modules whose source is to travel with the model, whole packages included.

    Raises:
        ConfigError: An object cannot be pickled, or a module has no source.
    """
    files: dict[str, bytes] = {}
    said: dict[str, Any] = {}
    if objects:
        files[CUSTOM_OBJECTS] = _pickled(dict(objects))
        said["custom_objects"] = [str(name) for name in objects]
    packages = {_package(module).__name__: _package(module) for module in modules or ()}
    if packages:
        files[EXTERNAL_MODULES] = _zipped([_sources(module) for module in packages.values()])
        said["external_modules"] = sorted(packages)
    return files, said


def load_custom_objects(entry: StoredModel) -> dict[str, Any]:
    """Return the objects that were saved with a model; see ``StoredModel.custom_objects``."""
    if CUSTOM_OBJECTS not in entry.info["files"]:
        return {}
    data = entry.file(CUSTOM_OBJECTS).read_bytes()
    if not entry.trust:
        raise UntrustedModelError(
            f"the custom objects of '{entry.tag}' ({', '.join(entry.info['custom_objects'])}) are "
            f"a pickle, and loading it would run {_named(data)}; if you trust whoever saved it, "
            "get the model with trust=True"
        )
    import_modules(entry)
    try:
        objects = pickle.loads(data)
    except Exception as exc:
        raise StoreError(
            f"the custom objects of '{entry.tag}' cannot be loaded here ({type(exc).__name__}: "
            f"{exc}); install what they were made with: {entry.info['context']['versions']}"
        ) from exc
    return dict(objects)


def import_modules(entry: StoredModel) -> None:
    """Make the modules that were saved with a model importable, and import them.

    Raises:
        UntrustedModelError: The model was not got with ``trust=True``.
        StoreError: Another module of that name has been imported, or one fails.
    """
    names = list(entry.info.get("external_modules", []))
    if not names:
        return
    if not entry.trust:
        raise UntrustedModelError(
            f"'{entry.tag}' brings Python modules of its own ({', '.join(names)}), whose code "
            "would run; if you trust whoever saved it, load it with trust=True (model.trust=true)"
        )
    archive = entry.file(EXTERNAL_MODULES)
    importer = zipimport.zipimporter(str(archive))
    importer.invalidate_caches()  # another model may have lain there
    for name in names:
        if name in sys.modules:
            _compare(sys.modules[name], archive, entry)
            continue
        spec = importer.find_spec(name)
        if spec is None or spec.loader is None:
            raise StoreError(f"'{entry.tag}' lacks the module '{name}'; save it again")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as exc:
            del sys.modules[name]
            if not isinstance(exc, Exception):
                raise
            raise StoreError(
                f"the module '{name}' of '{entry.tag}' cannot be imported here: "
                f"{type(exc).__name__}: {exc}"
            ) from exc


def _pickled(objects: dict[str, Any]) -> bytes:
    import cloudpickle  # type: ignore[import-untyped]

    try:
        data: bytes = cloudpickle.dumps(objects)
    except Exception as exc:
        raise ConfigError(f"custom_objects cannot be pickled: {type(exc).__name__}: {exc}") from exc
    return data


def _named(data: bytes) -> str:
    """List what a pickle names, without running it."""
    names: dict[str, None] = {}
    texts: list[str] = []
    memo: dict[Any, str] = {}
    count = 0
    latest = ""  # the text that was pushed last, if nothing else was
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
        names["something that is no whole pickle"] = None
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (" and more" if len(names) > _SHOWN else "") or "nothing but values"


def _package(module: ModuleType) -> ModuleType:
    if not isinstance(module, ModuleType):
        raise ConfigError(
            f"external_modules must hold modules, as after 'import my_heads'; got {module!r:.80}"
        )
    return importlib.import_module(module.__name__.partition(".")[0])


def _sources(module: ModuleType) -> dict[str, bytes]:
    """Return the sources of a module or of a whole package, by path in the archive."""
    name = module.__name__
    loader = getattr(module, "__loader__", None)
    if isinstance(loader, zipimport.zipimporter):  # it came out of a stored model
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
            f"external_modules: '{name}' has no Python source that could travel with the model; "
            "move what the model needs into a .py file and import that"
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


def _compare(module: ModuleType, archive: Path, entry: StoredModel) -> None:
    name = module.__name__
    with zipfile.ZipFile(archive) as stored:
        paths = [p for p in stored.namelist() if p == f"{name}.py" or p.startswith(f"{name}/")]
        if {path: stored.read(path) for path in paths} != _sources(module):
            raise StoreError(
                f"'{entry.tag}' brings its own module '{name}', but another of that name has been "
                f"imported from {getattr(module, '__file__', '?')}; load the model in a process "
                "that has not imported it"
            )
