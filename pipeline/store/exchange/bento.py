"""Detectron2 models of BentoML: read and written as BentoML does, without BentoML.

One version of such a model is a folder:

```
model.yaml            name, version, labels, metadata, signatures
saved_model.pth       torch.save({"model": state_dict})
custom_objects.pkl    cloudpickle of {"config": CfgNode, and whatever the user adds}
```

An exported ``.bentomodel`` is that folder as a ``.tar.xz``.
"""

from __future__ import annotations

import hashlib
import pickle
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata as packages
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from pipeline.errors import ConfigError, ModelCorruptError, StoreError, UntrustedModelError
from pipeline.models.plain_yaml import MAX_BYTES, PlainLoader, load_yaml
from pipeline.models.weights.unpickle import load_config, plain_copy
from pipeline.system.files import read_regular, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

INFO = "model.yaml"
WEIGHTS = "saved_model.pth"
OBJECTS = "custom_objects.pkl"

_MODULE = "bentoml.detectron"
_MODULES = re.compile(r"bentoml\.(_internal\.frameworks\.)?detectron2?")
_NAME = re.compile(r"[a-z0-9]([-._a-z0-9]{0,61}[a-z0-9])?")
_CONFIG = "config"  # the custom object that BentoML builds the model from
_IS_PREDICTOR = "_is_predictor"  # in the metadata: how BentoML loads it
_OURS = "d2run"  # in the metadata: what only d2run knows
_KIND = "kind"


@dataclass(frozen=True, slots=True)
class BentoModel:
    """One version of a Detectron2 model, as BentoML stores it.

    Attributes:
        name: The name in BentoML's store.
        version: The version there.
        created: When it was saved, as ISO text with the time zone.
        kind: ``predictor`` or ``module``.
        labels: Words to find it by.
        metadata: Anything else, as plain values: dates as text, every key as text.
        signatures: Callable methods of the model; ``batch_dim`` is a pair, of input and output.
        config: Detectron2's ``CfgNode`` as nested plain values.
        weights: The checkpoint's path.
        class_info: What ``write_bento`` was given as ``d2run``; empty if it did not write this.
        custom_objects: What the user saved with it.
        sha256: SHA-256 over its files, in hexadecimal digits.
    """

    name: str
    version: str
    created: str
    kind: str
    labels: dict[str, str]
    metadata: dict[str, Any]
    signatures: dict[str, Any]
    config: dict[str, Any]
    weights: Path
    class_info: dict[str, Any]
    custom_objects: dict[str, Any]
    sha256: str


class _Loader(PlainLoader):
    """Plain YAML in which all keys are text, and dates stay text."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        mapping = super().construct_mapping(node, deep)  # BentoML takes numbers for keys
        return {str(key): value for key, value in mapping.items()}


for _tag in ("timestamp", "binary"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_yaml_str)


def is_bento(folder: Path) -> bool:
    """Tell whether a folder is a Detectron2 model of BentoML."""
    try:
        return _is_detectron(_read_info(folder / INFO))
    except StoreError:
        return False


def read_bento(folder: Path, *, trust: bool = False) -> BentoModel:
    """Read the folder of one version of a model that ``bentoml.detectron`` saved.

    Args:
        folder: Such as ``~/bentoml/models/NAME/VERSION``, or what an export unpacks to.
        trust: Whether its custom objects may run code as they are loaded; without them, nothing
            runs any.

    Raises:
        UntrustedModelError: It has custom objects that are not plain values; names the first.
        ModelCorruptError: A part is missing or damaged.
        StoreError: It is no Detectron2 model of BentoML, or cannot be read.
    """
    try:
        info = _read_info(folder / INFO)
        if not _is_detectron(info):
            raise StoreError(
                f"'{folder}' is a model of {info.get('module')}, not of {_MODULE}: only "
                "Detectron2's models can be read"
            )
        if not (folder / WEIGHTS).is_file():
            raise ModelCorruptError(f"'{folder}' lacks {WEIGHTS}; export the model again")
        objects = _read_objects(folder / OBJECTS, trust)
        sha256 = _sha256(folder)
    except OSError as exc:
        raise StoreError(f"cannot read the model '{folder}': {exc.strerror or exc}") from exc
    config = objects.pop(_CONFIG, None)
    if not isinstance(config, dict):
        raise ModelCorruptError(
            f"'{folder}' has no config in {OBJECTS}; save the model again with {_MODULE}.save_model"
        )
    metadata = _mapping(info, "metadata", folder)
    is_predictor = metadata.pop(_IS_PREDICTOR, True)  # BentoML's own default
    ours = metadata.pop(_OURS) if isinstance(metadata.get(_OURS), dict) else {}
    kind = ours.pop(_KIND, "module")
    return BentoModel(
        name=_text(info, "name", folder),
        version=_text(info, "version", folder),
        created=_created(info, folder),
        kind="predictor" if is_predictor or kind == "predictor" else "module",
        labels={key: str(value) for key, value in _mapping(info, "labels", folder).items()},
        metadata=metadata,
        signatures=_mapping(info, "signatures", folder),
        config=config,
        weights=folder / WEIGHTS,
        class_info=ours,
        custom_objects=objects,
        sha256=sha256,
    )


def write_bento(
    folder: Path,
    *,
    name: str,
    version: str,
    created: str,
    kind: str,
    labels: Mapping[str, str],
    metadata: Mapping[str, Any],
    signatures: Mapping[str, Mapping[str, Any]],
    cfg: Any,
    weights: Mapping[str, Tensor],
    custom_objects: Mapping[str, Any],
    d2run: Mapping[str, Any],
) -> None:
    """Write a model as BentoML does, for ``bentoml models import`` of its ``.tar.xz``.

    BentoML will load it as a module whatever its kind: for a predictor, it would take the weights
    that the config names and not those of the model. BentoML knows no null, so in metadata and
    ``d2run`` keys without a value are left out.

    Args:
        folder: An empty folder.
        name: The name in BentoML's store.
        version: The version there.
        created: When it was saved, as ISO text.
        kind: ``predictor`` or ``module``, as ``read_bento`` shall say again.
        labels: Words to find it by.
        metadata: Anything else, as plain values.
        signatures: Callable methods of the model.
        cfg: Detectron2's ``CfgNode``; a changed copy is written.
        weights: Tensors by name.
        custom_objects: Further objects for BentoML's ``Model.custom_objects``.
        d2run: What only d2run knows, as plain values, without a key ``kind``.

    Raises:
        ConfigError: BentoML does not take the name, the version or the metadata, or an object
            cannot be pickled.
        StoreError: The disk refuses.
    """
    import torch

    info = {
        "name": _checked(name, "name"),
        "version": _checked(version, "version"),
        "module": _MODULE,
        "labels": dict(labels),
        "options": {"partial_kwargs": {}},
        "metadata": {
            **_without_null(metadata, "metadata"),
            _IS_PREDICTOR: False,
            _OURS: {**_without_null(d2run, _OURS), _KIND: kind},
        },
        "context": _context(),
        "signatures": {key: _signature(options) for key, options in signatures.items()},
        "api_version": "v1",
        "creation_time": _with_zone(created),
    }
    objects = _pickled({**custom_objects, _CONFIG: _for_bento(cfg)}, plain=not custom_objects)
    # copies, as a view would be written with all of what it is a view of
    tensors = {key: value.detach().cpu().clone() for key, value in weights.items()}
    try:
        # only ASCII, as BentoML reads it in whatever encoding the system has
        (folder / INFO).write_text(_yaml(info), encoding="ascii")
        (folder / OBJECTS).write_bytes(objects)
        with (folder / WEIGHTS).open("wb") as file:
            torch.save({"model": tensors}, file)
    except (OSError, RuntimeError) as exc:  # torch says it with the latter
        raise StoreError(f"cannot write the model for BentoML to '{folder}': {exc}") from exc


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = plain_copy(load_yaml(read_regular(path, MAX_BYTES), _Loader))
    except FileNotFoundError:
        raise StoreError(
            f"there is no '{path}'; give the folder of one version of a model of BentoML"
        ) from None
    except OSError as exc:
        raise StoreError(f"cannot read '{path}': {exc.strerror or exc}") from exc
    except yaml.constructor.ConstructorError as exc:
        raise UntrustedModelError(f"'{path}' is more than plain YAML: {exc.problem}") from exc
    except (yaml.YAMLError, ValueError) as exc:
        problem = " ".join(str(exc).split())
        raise ModelCorruptError(f"'{path}' is not plain YAML: {problem}") from exc
    if not isinstance(info, dict):
        raise ModelCorruptError(f"'{path}' holds no 'key: value' lines")
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
    import cloudpickle  # type: ignore[import-untyped]

    try:
        with path.open("rb") as file:
            objects = dict(cloudpickle.load(file))
    except Exception as exc:  # it is anybody's code
        raise StoreError(
            f"the custom objects in '{path}' cannot be loaded here ({type(exc).__name__}: {exc}); "
            "is what they were made with installed?"
        ) from exc
    return {**objects, _CONFIG: _dicts(objects.get(_CONFIG))}


def _dicts(node: Any) -> Any:
    """Turn a ``CfgNode``, and those in it, into dicts."""
    return {key: _dicts(item) for key, item in node.items()} if isinstance(node, dict) else node


def _sha256(folder: Path) -> str:
    files = (INFO, WEIGHTS, OBJECTS)
    digests = [sha256_file(folder / name) for name in files if (folder / name).is_file()]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _text(info: Mapping[str, Any], key: str, folder: Path) -> str:
    value = info.get(key)
    if not isinstance(value, str) or not value:
        raise ModelCorruptError(f"'{folder / INFO}' has no text under '{key}'")
    return value


def _mapping(info: Mapping[str, Any], key: str, folder: Path) -> dict[str, Any]:
    value = info.get(key) or {}
    if not isinstance(value, dict):
        raise ModelCorruptError(f"'{folder / INFO}' has no mapping under '{key}'")
    return value


def _created(info: Mapping[str, Any], folder: Path) -> str:
    try:
        return _with_zone(_text(info, "creation_time", folder))
    except ConfigError as exc:
        raise ModelCorruptError(f"'{folder / INFO}': {exc}") from exc


def _with_zone(created: str) -> str:
    """Return a time as ISO text with its zone, without which BentoML cannot compare two."""
    try:
        time = datetime.fromisoformat(re.sub("Z$", "+00:00", created))  # Python 3.10 knows no Z
    except ValueError as exc:
        raise ConfigError(f"'{created}' is not a time like 2026-01-31T12:00:00+00:00") from exc
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).isoformat()


def _checked(text: str, what: str) -> str:
    if not _NAME.fullmatch(text):
        raise ConfigError(
            f"BentoML does not take {text!r} as a model's {what}: give it one of a-z, 0-9, '.', "
            "'_' and '-', at most 63, beginning and ending with a letter or digit"
        )
    return text


def _without_null(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        items = value.items()
        return {k: _without_null(v, f"{where}.{k}") for k, v in items if v is not None}
    if isinstance(value, (list, tuple)):
        return [_without_null(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if value is None:
        raise ConfigError(f"{where} is null, which BentoML does not take; leave it out")
    return value


def _signature(options: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in options.items() if value is not None}
    dim = known.get("batch_dim")
    # one number is for input and output; BentoML reads nothing but pairs
    return known | {"batch_dim": [dim, dim]} if isinstance(dim, int) else known


def _context() -> dict[str, Any]:
    try:
        version = packages.version("detectron2")
    except packages.PackageNotFoundError:
        version = "unknown"
    return {
        "framework_name": "detectron2",
        "framework_versions": {"detectron2": version},
        "python_version": platform.python_version(),
    }


def _for_bento(cfg: Any) -> Any:
    clone = cfg.clone()
    clone.defrost()  # BentoML sets the device as it loads
    clone.MODEL.WEIGHTS = ""
    clone.MODEL.DEVICE = "cpu"
    return clone


def _pickled(objects: dict[str, Any], *, plain: bool) -> bytes:
    try:
        if plain:
            return pickle.dumps(objects, protocol=4)
        import cloudpickle

        return bytes(cloudpickle.dumps(objects))
    except Exception as exc:  # pickle raises what the objects raise
        raise ConfigError(f"the custom objects cannot be pickled: {exc}") from exc


def _yaml(info: Mapping[str, Any]) -> str:
    try:
        return str(yaml.safe_dump(dict(info), sort_keys=False))
    except yaml.YAMLError as exc:
        raise ConfigError(
            f"labels, metadata and signatures must be plain values: {' '.join(str(exc).split())}"
        ) from exc
