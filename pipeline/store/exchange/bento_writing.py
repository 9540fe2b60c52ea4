"""Writes Detectron2 models in the format of BentoML, without BentoML."""

from __future__ import annotations

import inspect
import logging
import pickle
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.errors import ConfigError, StoreError
from pipeline.store.api.code import importing
from pipeline.store.exchange.bento_reading import (
    CONFIG,
    FROM_D2RUN,
    INFO,
    IS_PREDICTOR,
    KIND,
    MODULE,
    MODULES,
    OBJECTS,
    OPTIONS,
    WEIGHTS,
    with_time_zone,
)
from pipeline.system.versions import library_versions

if TYPE_CHECKING:
    from torch import Tensor

# imports the modules that a model requires, before its objects are loaded
_LOAD = "exec(source) or import_modules(**modules) or __import__('pickle').loads(objects)"
_NAME = re.compile(r"[a-z0-9]([-._a-z0-9]{0,61}[a-z0-9])?")

_log = logging.getLogger(__name__)


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
    options: Mapping[str, Any] | None = None,
    modules: Mapping[str, Any] | None = None,
) -> None:
    """Write a model in BentoML's format, for ``bentoml models import`` of its ``.tar.xz``.

    BentoML loads it as a module in any case, because for a predictor it would use the weights that
    the config names. BentoML does not support null, so keys without a value are omitted in
    ``metadata``, with a warning, and in ``d2run``.

    Args:
        folder: An empty directory.
        name: The name in BentoML's store.
        version: The version there.
        created: Time of saving, as ISO text.
        kind: ``predictor`` or ``module``; ``read_bento`` returns it again.
        labels: Labels to find it by.
        metadata: Other plain values.
        signatures: Callable methods of the model.
        cfg: Detectron2's ``CfgNode``; a changed copy is written.
        weights: Tensors by name.
        custom_objects: More objects for BentoML's ``Model.custom_objects``.
        d2run: Plain values for ``read_bento``, without its keys ``kind``, ``modules`` and
            ``options``.
        options: Options of the model; BentoML uses only ``partial_kwargs``.
        modules: Arguments for ``importing.import_modules``, if the model requires modules. They are
            in the pickle of the custom objects, which BentoML loads before it builds the model.

    Raises:
        ConfigError: BentoML does not support the name, the version or the metadata, it uses the
            name of a metadata key or a custom object itself, or an object cannot be pickled.
        StoreError: A file cannot be written.
    """
    import torch

    for reserved in (IS_PREDICTOR, FROM_D2RUN):
        _refuse_reserved(reserved, metadata, "metadata")
    _refuse_reserved(CONFIG, custom_objects, "custom_objects")
    if omitted := [*_null_keys(metadata, "metadata")]:
        _log.warning("BentoML does not support null; not exported: %s", ", ".join(omitted))
    partial_kwargs = (options or {}).get("partial_kwargs", {})
    restored = {
        KIND: kind,
        **({OPTIONS: dict(options)} if options else {}),
        **({MODULES: modules["names"]} if modules else {}),
    }
    info = {
        "name": _checked(name, "name"),
        "version": _checked(version, "version"),
        "module": MODULE,
        "labels": dict(labels),
        "options": {"partial_kwargs": dict(partial_kwargs)},
        "metadata": {
            **_without_null(metadata, "metadata"),
            IS_PREDICTOR: False,
            FROM_D2RUN: _without_null({**d2run, **restored}, FROM_D2RUN),
        },
        "context": _context(),
        "signatures": {key: _signature(options) for key, options in signatures.items()},
        "api_version": "v1",
        "creation_time": with_time_zone(created),
    }
    objects = _pickled({**custom_objects, CONFIG: _for_bento(cfg)}, plain=not custom_objects)
    if modules:
        objects = _importing(objects, {**modules, "origin": f"{name}-{version}"})
    # copies, because a view would be written with its whole base
    tensors = {key: value.detach().cpu().clone() for key, value in weights.items()}
    try:
        # ASCII, because BentoML reads the file in the encoding of the system
        (folder / INFO).write_text(_yaml(info), encoding="ascii")
        (folder / OBJECTS).write_bytes(objects)
        with (folder / WEIGHTS).open("wb") as file:
            torch.save({"model": tensors}, file)
    except (OSError, RuntimeError) as exc:  # torch raises RuntimeError
        raise StoreError(f"cannot write the model for BentoML to '{folder}': {exc}") from exc


def _checked(text: str, what: str) -> str:
    if not _NAME.fullmatch(text):
        raise ConfigError(
            f"BentoML does not support the {what} {text!r}; use 1 to 63 of a-z, 0-9, '.', '_' and "
            "'-', starting and ending with a letter or digit"
        )
    return text


def _refuse_reserved(key: str, given: Mapping[str, Any], where: str) -> None:
    if key in given:
        raise ConfigError(
            f"{where}: BentoML uses the name {key!r} itself; rename yours to export it"
        )


def _null_keys(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from [f"{where}.{key}"] if item is None else _null_keys(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _null_keys(item, f"{where}[{i}]")


def _without_null(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        items = value.items()
        return {k: _without_null(v, f"{where}.{k}") for k, v in items if v is not None}
    if isinstance(value, (list, tuple)):
        return [_without_null(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if value is None:
        raise ConfigError(f"{where} is null, which BentoML does not support; remove it")
    return value


def _signature(options: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in options.items() if value is not None}
    dim = known.get("batch_dim")
    # a single number is for input and output; BentoML requires a pair
    return known | {"batch_dim": [dim, dim]} if isinstance(dim, int) else known


def _context() -> dict[str, Any]:
    return {
        "framework_name": "detectron2",
        "framework_versions": {"detectron2": library_versions()["detectron2"] or "unknown"},
        "python_version": platform.python_version(),
    }


def _for_bento(cfg: Any) -> Any:
    clone = cfg.clone()
    clone.defrost()  # BentoML sets the device when it loads the model
    clone.MODEL.WEIGHTS = ""
    clone.MODEL.DEVICE = "cpu"
    return clone


def _pickled(objects: dict[str, Any], *, plain: bool) -> bytes:
    try:
        if plain:
            return pickle.dumps(objects, protocol=4)
        import cloudpickle

        return bytes(cloudpickle.dumps(objects))
    except Exception as exc:  # the objects can raise anything
        raise ConfigError(f"cannot pickle the custom objects: {exc}") from exc


@dataclass(frozen=True)
class _Call:
    """Becomes the result of a call when it is unpickled."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def _importing(objects: bytes, modules: dict[str, Any]) -> bytes:
    """Return a pickle that imports modules and then loads another pickle.

    It contains the source of both, because d2run is not installed where BentoML loads it.
    """
    names = {
        "__name__": "d2run_importing",
        "source": inspect.getsource(importing),
        "modules": modules,
        "objects": objects,
    }
    return pickle.dumps(_Call(eval, (_LOAD, names)), protocol=4)


def _yaml(info: Mapping[str, Any]) -> str:
    try:
        return str(yaml.safe_dump(dict(info), sort_keys=False))
    except yaml.YAMLError as exc:
        raise ConfigError(
            f"labels, metadata and signatures must be plain values: {' '.join(str(exc).split())}"
        ) from exc
