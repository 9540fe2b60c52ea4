"""Reads Detectron2 models of BentoML, without BentoML.

One version of such a model is a directory:

```
model.yaml            name, version, labels, metadata, signatures
saved_model.pth       torch.save({"model": state_dict})
custom_objects.pkl    cloudpickle of {"config": CfgNode, ...} with the user's objects
```

An exported ``.bentomodel`` is that directory as a ``.tar.xz``.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from pipeline.errors import ConfigError, ModelCorruptError, StoreError, UntrustedModelError
from pipeline.models.plain_yaml import MAX_BYTES, load_yaml
from pipeline.models.weights.unpickle import load_config, plain_copy
from pipeline.system.files import read_regular, sha256_file

INFO = "model.yaml"
WEIGHTS = "saved_model.pth"
OBJECTS = "custom_objects.pkl"

MODULE = "bentoml.detectron"
_MODULES = re.compile(r"bentoml\.(_internal\.frameworks\.)?detectron2?")
CONFIG = "config"  # the custom object with the config
IS_PREDICTOR = "_is_predictor"  # in the metadata: the type that BentoML loads
FROM_D2RUN = "d2run"  # in the metadata: values of d2run
KIND = "kind"
MODULES = "modules"
OPTIONS = "options"


@dataclass(frozen=True, slots=True)
class BentoModel:
    """One version of a Detectron2 model, as BentoML stores it.

    Attributes:
        name: The name in BentoML's store.
        version: The version there.
        created: Time of saving, as ISO text with a time zone.
        kind: ``predictor`` or ``module``.
        labels: Labels to find it by.
        metadata: Other plain values.
        signatures: Callable methods of the model; ``batch_dim`` is a pair, of input and output.
        config: Detectron2's ``CfgNode`` as nested plain values.
        weights: The checkpoint's path.
        options: Options of the model, as for ``ModelOptions``.
        class_info: The argument ``d2run`` of ``write_bento``; empty if d2run did not write it.
        custom_objects: The user's objects.
        modules: Modules that the model requires, if d2run wrote it.
        sha256: SHA-256 over its files, in hexadecimal digits.
    """

    name: str
    version: str
    created: str
    kind: str
    labels: dict[str, str]
    metadata: dict[str, Any]
    signatures: dict[str, Any]
    options: dict[str, Any]
    config: dict[str, Any]
    weights: Path
    class_info: dict[str, Any]
    custom_objects: dict[str, Any]
    modules: list[ModuleType]
    sha256: str


def is_bento(folder: Path) -> bool:
    """Return whether a directory is a Detectron2 model of BentoML."""
    return _MODULES.fullmatch(module_of(folder) or "") is not None


def module_of(folder: Path) -> str | None:
    """Return the module that saved the model in a directory; ``None`` if that is unknown."""
    try:
        module = _read_info(folder / INFO).get("module")
    except StoreError:
        return None
    return module if isinstance(module, str) else None


def read_bento(folder: Path, *, trust: bool = False) -> BentoModel:
    """Read one version of a model that ``bentoml.detectron`` saved.

    Args:
        folder: The model's directory, for example ``~/bentoml/models/NAME/VERSION``, or an
            unpacked export.
        trust: Whether the model's custom objects may run code when they are loaded. No other part
            can run code.

    Raises:
        UntrustedModelError: It has custom objects that are not plain values; names the first.
        ModelCorruptError: A file is missing or damaged.
        StoreError: It is not a Detectron2 model of BentoML, or cannot be read.
    """
    try:
        info = _read_info(folder / INFO)
        if not _is_detectron(info):
            raise StoreError(
                f"'{folder}' is a model of {info.get('module') or 'no framework'}; only models of "
                f"{MODULE} can be imported"
            )
        if not (folder / WEIGHTS).is_file():
            raise ModelCorruptError(f"{WEIGHTS} is missing in '{folder}'; export the model again")
        objects = _read_objects(folder / OBJECTS, trust)
        sha256 = _sha256(folder)
    except OSError as exc:
        raise StoreError(f"cannot read the model '{folder}': {exc.strerror or exc}") from exc
    config = objects.pop(CONFIG, None)
    if not isinstance(config, dict):
        raise ModelCorruptError(
            f"the {OBJECTS} in '{folder}' has no config; save the model again with "
            f"{MODULE}.save_model"
        )
    metadata = _mapping(info, "metadata", folder)
    is_predictor = metadata.pop(IS_PREDICTOR, True)  # BentoML's default
    ours = metadata.pop(FROM_D2RUN) if isinstance(metadata.get(FROM_D2RUN), dict) else {}
    kind = ours.pop(KIND, "module")
    options = ours.pop(OPTIONS, None) or _mapping(info, "options", folder)
    return BentoModel(
        name=_text(info, "name", folder),
        version=_text(info, "version", folder),
        created=_created(info, folder),
        kind="predictor" if is_predictor or kind == "predictor" else "module",
        labels={str(key): str(value) for key, value in _mapping(info, "labels", folder).items()},
        metadata=metadata,
        signatures=_mapping(info, "signatures", folder),
        options=options,
        config=config,
        weights=folder / WEIGHTS,
        class_info=ours,
        custom_objects=objects,
        modules=_imported(ours.pop(MODULES, []), folder),
        sha256=sha256,
    )


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = plain_copy(load_yaml(read_regular(path, MAX_BYTES)))
    except FileNotFoundError:
        raise StoreError(
            f"no such file: '{path}'; give the directory of one version of a BentoML model"
        ) from None
    except OSError as exc:
        raise StoreError(f"cannot read '{path}': {exc.strerror or exc}") from exc
    except yaml.constructor.ConstructorError as exc:
        raise UntrustedModelError(f"'{path}' is not plain YAML: {exc.problem}") from exc
    except (yaml.YAMLError, ValueError) as exc:
        problem = " ".join(str(exc).split())
        raise ModelCorruptError(f"'{path}' is not valid YAML: {problem}") from exc
    if not isinstance(info, dict):
        raise ModelCorruptError(f"'{path}' has no 'key: value' lines; export the model again")
    return info


def _is_detectron(info: Mapping[str, Any]) -> bool:
    return _MODULES.fullmatch(str(info.get("module"))) is not None


def _read_objects(path: Path, trust: bool) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return load_config(path)
    except UntrustedModelError:
        if not trust:
            raise
    import cloudpickle

    try:
        with path.open("rb") as file:
            objects = dict(cloudpickle.load(file))
    except Exception as exc:  # custom code can raise anything
        raise StoreError(
            f"cannot load the custom objects in '{path}' ({type(exc).__name__}: {exc}); install "
            "the packages they were saved with"
        ) from exc
    return {**objects, CONFIG: _dicts(objects.get(CONFIG))}


def _imported(names: Any, folder: Path) -> list[ModuleType]:
    """Return the modules that loading the custom objects imported."""
    try:
        return [sys.modules[name] for name in names]
    except (KeyError, TypeError) as exc:
        raise ModelCorruptError(
            f"the {OBJECTS} in '{folder}' lacks the modules of the model: {exc}; export it again"
        ) from exc


def _dicts(node: Any) -> Any:
    """Return a ``CfgNode`` as nested dicts."""
    return {key: _dicts(item) for key, item in node.items()} if isinstance(node, dict) else node


def _sha256(folder: Path) -> str:
    files = (INFO, WEIGHTS, OBJECTS)
    digests = [sha256_file(folder / name) for name in files if (folder / name).is_file()]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _text(info: Mapping[str, Any], key: str, folder: Path) -> str:
    value = info.get(key)
    if not isinstance(value, str) or not value:
        raise ModelCorruptError(f"'{folder / INFO}': expected text as '{key}', got {value!r:.60}")
    return value


def _mapping(info: Mapping[str, Any], key: str, folder: Path) -> dict[str, Any]:
    value = info.get(key) or {}
    if not isinstance(value, dict):
        raise ModelCorruptError(
            f"'{folder / INFO}': expected a mapping as '{key}', got {value!r:.60}"
        )
    return value


def _created(info: Mapping[str, Any], folder: Path) -> str:
    try:
        time = info.get("creation_time")
        if isinstance(time, datetime):  # without quotes in the file
            return with_time_zone(time.isoformat())
        return with_time_zone(_text(info, "creation_time", folder))
    except ConfigError as exc:
        raise ModelCorruptError(f"'{folder / INFO}': {exc}") from exc


def with_time_zone(created: str) -> str:
    """Return a time as ISO text with a time zone, which BentoML needs to compare times."""
    try:
        time = datetime.fromisoformat(re.sub("Z$", "+00:00", created))  # for Python 3.10
    except ValueError as exc:
        raise ConfigError(f"expected a time, 2026-01-31T12:00:00+00:00, got '{created}'") from exc
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).isoformat()
