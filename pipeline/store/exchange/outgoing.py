"""Exports models to files, directories and addresses, for d2run and for BentoML."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pipeline.errors import ConfigError, StoreError
from pipeline.models.weights.weights import read_weights
from pipeline.store.api.building import stored_cfg
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.disk.plain import plain_categories
from pipeline.store.disk.staging import staged
from pipeline.store.disk.version import INFO, WEIGHTS, sync_files
from pipeline.store.exchange import archive
from pipeline.store.exchange.bento_service import BENTOFILE, write_service
from pipeline.store.exchange.bento_writing import write_bento
from pipeline.store.exchange.remote import send, shown

_FOLDERS = {"dir": INFO, "bento-service": BENTOFILE}  # formats, and a file that each has
FORMATS = (*archive.FORMATS, *_FOLDERS, "bentoml")
_SUFFIX = {"bentoml": ".bentomodel"} | dict.fromkeys(_FOLDERS, "")


def export_model(
    tag: str | StoredModel,
    path: str | Path = ".",
    *,
    format: str | None = None,
    overwrite: bool = False,
    trust: bool = False,
    store: ModelStore | None = None,
) -> str:
    """Write a stored model to a file, a directory or an address.

    Args:
        tag: A tag, or the result of ``get``.
        path: A file; an existing directory, or a path with a trailing ``/``, for a file
            ``<name>-<version>`` in it; or an address that fsspec supports, such as
            ``s3://bucket/``.
        format: ``tar.xz``, ``tar.gz``, ``zip``, ``dir`` (a plain copy), ``bentoml``, or
            ``bento-service`` (a directory for ``bentoml build``, with a service and the model); by
            default the format of the path's suffix, otherwise ``tar.xz``.
        overwrite: Replace an existing target.
        trust: For ``bentoml``: load the custom objects, which must be pickled again. For
            ``bento-service``: the service may import the model's external modules.
        store: The store; by default the one in ``$D2RUN_HOME``.

    Returns:
        The path or address that was written.

    Raises:
        ConfigError: The format is unknown.
        ModelNotFoundError: There is no such model.
        ModelCorruptError: A file differs from what was saved.
        UntrustedModelError: ``trust`` is required.
        StoreError: The target exists or cannot be written.
    """
    model = tag if isinstance(tag, StoredModel) else (store or ModelStore()).get(tag, trust=trust)
    model.verify()
    target = str(path)
    format = format or _format_of(target)
    if format not in FORMATS:
        raise ConfigError(f"format: expected one of {', '.join(FORMATS)}, got '{format}'")
    target = _target_path(target, format, model)
    is_address = "://" in target
    if not is_address and not overwrite and Path(target).expanduser().exists():
        raise StoreError(f"'{target}' already exists; choose another path or add --force")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = model.path
            if format == "bentoml":
                folder = _as_bento(model, Path(scratch, "bento"))
            if format in _FOLDERS:
                _write_folder(model, target, format, overwrite)
            elif is_address:
                packed = Path(scratch, "packed")
                archive.pack(folder, packed, _packing(format))
                send(packed, target, overwrite=overwrite)
            else:
                archive.pack(folder, Path(target).expanduser(), _packing(format))
    except OSError as exc:
        reason = exc.strerror or exc
        raise StoreError(f"cannot export '{model.tag}' to '{shown(target)}': {reason}") from exc
    return target


def _as_bento(model: StoredModel, folder: Path) -> Path:
    folder.mkdir()
    write_bento(
        folder,
        name=model.info["name"],
        version=model.info["version"],
        created=model.info["created"],
        kind=model.info["kind"],
        labels=model.info["labels"],
        metadata=model.info["metadata"],
        signatures=model.info["signatures"],
        cfg=stored_cfg(model),
        weights=read_weights(model.path / WEIGHTS),
        custom_objects=model.custom_objects,
        d2run={"kind": model.info["kind"], "categories": plain_categories(model.categories)},
    )
    return folder


def _format_of(path: str) -> str:
    if path.endswith(_SUFFIX["bentoml"]):
        return "bentoml"
    return archive.format_of(path) or archive.FORMATS[0]


def _packing(format: str) -> str:
    return archive.FORMATS[0] if format == "bentoml" else format


def _target_path(target: str, format: str, model: StoredModel) -> str:
    """Append the model's name to a directory, and the format's suffix to a file."""
    suffix = _SUFFIX.get(format, f".{format}")
    place = Path(target).expanduser()
    is_export = any((place / name).is_file() for name in _FOLDERS.values())
    in_folder = "://" not in target and place.is_dir() and not is_export
    if target.endswith("/") or in_folder:
        return f"{target.rstrip('/')}/{model.tag.replace(':', '-')}{suffix}"
    return target if archive.format_of(target) or not suffix else target + suffix


def _write_folder(model: StoredModel, target: str, format: str, overwrite: bool) -> None:
    if "://" in target:
        raise ConfigError(
            f"format={format} cannot write to an address: '{shown(target)}'. Use an archive"
        )
    place = Path(target).expanduser()
    place.parent.mkdir(parents=True, exist_ok=True)
    with staged(place.parent) as folder:
        if format == "dir":
            for file in model.path.iterdir():
                shutil.copyfile(file, folder / file.name)
        else:
            write_service(model, folder)
        for path, _, _ in os.walk(folder, topdown=False):
            sync_files(Path(path))
        if overwrite and place.exists():
            if not (place / _FOLDERS[format]).is_file():
                raise StoreError(f"'{place}' is not an exported model; choose another path")
            shutil.rmtree(place)
        folder.rename(place)
