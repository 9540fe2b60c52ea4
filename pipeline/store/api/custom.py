"""Custom objects and external modules: the only parts of a stored model that run code.

The objects are a pickle, which can call anything; the modules are Python. Neither is loaded unless
the model was opened with ``trust=True``, and the error message says what code would run.
"""

from __future__ import annotations

import io
import logging
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from itertools import islice
from types import ModuleType
from typing import Any

from pipeline.errors import ConfigError, ModelCorruptError, StoreError, UntrustedModelError
from pipeline.store.api.code import importing
from pipeline.store.api.code.packing import pack_modules, unsaved_modules
from pipeline.store.disk.version import CUSTOM_OBJECTS, EXTERNAL_MODULES, ModelVersion

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest in zip; the same content gives the same bytes
_SHOWN = 8  # names in a message
_MAX_STEPS = 1_000_000  # of a pickle that is inspected
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*")

_log = logging.getLogger(__name__)


def pack_custom(
    objects: Mapping[str, Any] | None, modules: Iterable[ModuleType] | None
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files with custom objects and modules, and their keys in ``model.yaml``.

    Args:
        objects: Objects that cloudpickle supports, by name.
        modules: Modules that the model requires. The source of the user's own is saved, of a
            package all modules; of installed packages, the name and version.

    Raises:
        ConfigError: An object cannot be pickled, or a module has no source.
    """
    files: dict[str, bytes] = {}
    keys: dict[str, Any] = {}
    packed = pack_modules(modules or ())
    if packed.names:
        keys["external_modules"] = packed.names
    if packed.requirements:
        keys["requirements"] = packed.requirements
    if packed.files:
        files[EXTERNAL_MODULES] = _zipped(packed.files)
    if packed.compiled:
        _log.warning("compiled modules are not saved: %s", ", ".join(packed.compiled[:_SHOWN]))
    if objects:
        files[CUSTOM_OBJECTS] = pickled(dict(objects))
        keys["custom_objects"] = [str(name) for name in objects]
    return files, keys


def warn_unsaved(tag: str, files: Mapping[str, bytes], names: Iterable[str]) -> None:
    """Log which of the user's modules a model would miss in another process.

    Args:
        tag: The model.
        files: The result of ``pack_custom``.
        names: The modules with the classes that it consists of.
    """
    names = {*names, *(module for module, _ in _names(files.get(CUSTOM_OBJECTS, b".")))}
    if unsaved := unsaved_modules(names, _unzipped(files.get(EXTERNAL_MODULES))):
        _log.warning(
            "'%s' requires modules that are not saved with it: %s. Add them to external_modules",
            tag,
            ", ".join(unsaved),
        )


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
    """Import the Python modules that a model requires.

    Raises:
        UntrustedModelError: The model was opened without ``trust=True``.
        StoreError: A package is not installed, another module of a name is imported, or a module
            fails.
    """
    arguments = import_arguments(model)
    if not arguments:
        return
    if not model.trust:
        raise UntrustedModelError(
            f"'{model.tag}' requires Python modules ({', '.join(arguments['names'])}), whose code "
            "would run. If you trust its author, load it with trust=True (model.trust=true)"
        )
    try:
        importing.import_modules(**arguments, origin=str(model.path / EXTERNAL_MODULES))
    except ImportError as exc:
        raise StoreError(f"'{model.tag}' cannot be loaded: {exc}") from exc


def import_arguments(model: ModelVersion) -> dict[str, Any]:
    """Return ``names``, ``files`` and ``requirements`` for ``importing.import_modules``.

    The result is empty for a model without modules.
    """
    if not (names := _texts(model, "external_modules", _MODULE)):
        return {}
    requirements = _texts(model, "requirements", _REQUIREMENT)
    return {"names": names, "files": read_sources(model), "requirements": requirements}


def read_sources(model: ModelVersion) -> dict[str, bytes]:
    """Return the sources of a model's modules, by path."""
    stored = EXTERNAL_MODULES in model.info["files"]
    return _unzipped(model.file(EXTERNAL_MODULES).read_bytes() if stored else None)


def _texts(model: ModelVersion, key: str, pattern: re.Pattern[str]) -> list[str]:
    values = model.info.get(key, [])
    if not isinstance(values, list) or not all(pattern.fullmatch(str(text)) for text in values):
        raise ModelCorruptError(f"the {key} of '{model.tag}' are not valid: {values!r:.80}")
    return values


def pickled(objects: dict[str, Any]) -> bytes:
    """Return objects as a pickle.

    Raises:
        ConfigError: An object cannot be pickled.
    """
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(objects)
    except Exception as exc:
        raise ConfigError(f"custom_objects cannot be pickled: {type(exc).__name__}: {exc}") from exc
    return data


def _globals(data: bytes) -> str:
    """Return the names that a pickle would import, without loading it."""
    names = [".".join(pair).strip(".") for pair in _names(data)]
    shown = ", ".join(names[:_SHOWN])
    return shown + (" and more" if len(names) > _SHOWN else "") or "no code"


def _names(data: bytes) -> list[tuple[str, str]]:
    """Return the modules and names that a pickle would import, without loading it."""
    names: dict[tuple[str, str], None] = {}
    texts: list[str] = []
    memo: dict[Any, str] = {}
    count = 0
    latest = ""  # the last value, if that was text
    try:
        for opcode, argument, _ in islice(pickletools.genops(data), _MAX_STEPS):
            if opcode.name == "STACK_GLOBAL":
                names[_pair(texts[-2:])] = None
            elif opcode.name in ("GLOBAL", "INST"):
                names[_pair(str(argument).split(" ", 1))] = None
            elif "PUT" in opcode.name or opcode.name == "MEMOIZE":
                memo[count if argument is None else int(argument)] = latest
                count += 1
                continue
            latest = str(argument) if "UNICODE" in opcode.name else ""
            if "GET" in opcode.name:
                latest = memo.get(int(argument or 0), "")
            texts += [latest] * bool(latest)
    except Exception:
        names["", "unknown code, because it is damaged"] = None
    return list(names)


def _pair(texts: list[str]) -> tuple[str, str]:
    return texts[0], texts[-1]


def _zipped(sources: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, source in sorted(sources.items()):
            info = zipfile.ZipInfo(path, _EPOCH)
            info.external_attr = 0o644 << 16
            archive.writestr(info, source, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _unzipped(data: bytes | None) -> dict[str, bytes]:
    if data is None:
        return {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
