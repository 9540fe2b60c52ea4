"""Models out of the store: to files, folders and addresses, for d2run and for BentoML."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pipeline.errors import ConfigError, StoreError
from pipeline.models.weights.weights import read_weights
from pipeline.store.api.predictor import stored_cfg
from pipeline.store.disk.entry import INFO, WEIGHTS, StoredModel, plain, sync
from pipeline.store.disk.local import ModelStore
from pipeline.store.disk.staging import staged
from pipeline.store.exchange import archive, bento
from pipeline.store.exchange.remote import send, shown

FORMATS = (*archive.FORMATS, "dir", "bentoml")
_SUFFIX = {"bentoml": ".bentomodel", "dir": ""}


def export_model(
    tag: str | StoredModel,
    path: str | Path = ".",
    *,
    format: str | None = None,
    overwrite: bool = False,
    trust: bool = False,
    store: ModelStore | None = None,
) -> str:
    """Write a stored model to a file, a folder or an address.

    Args:
        tag: A tag, or what ``get`` returned.
        path: A file; an existing folder, or a path that ends in ``/``, to get
            ``<name>-<version>`` there; or an address that fsspec knows, as ``s3://bucket/``.
        format: ``tar.xz``, ``tar.gz``, ``zip``, ``dir`` (a plain copy) or ``bentoml``; by default
            what the path's suffix says, else ``tar.xz``.
        overwrite: Replace what is there.
        trust: For ``bentoml``: load the custom objects, to write them anew.
        store: By default the one in ``$D2RUN_HOME``.

    Returns:
        Where it was written.

    Raises:
        ConfigError: The format is unknown.
        ModelNotFoundError: There is no such model.
        ModelCorruptError: It is not what was saved.
        StoreError: The target exists, or cannot be written.
    """
    entry = tag if isinstance(tag, StoredModel) else (store or ModelStore()).get(tag, trust=trust)
    entry.verify()
    target = str(path)
    format = format or _format_of(target)
    if format not in FORMATS:
        raise ConfigError(f"format '{format}' is none of {', '.join(FORMATS)}")
    target = _named(target, format, entry)
    is_address = "://" in target
    if not is_address and not overwrite and Path(target).expanduser().exists():
        raise StoreError(f"'{target}' exists; choose another path, or --force to replace it")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = entry.path
            if format == "bentoml":
                folder = _as_bento(entry, Path(scratch, "bento"))
            if format == "dir":
                _copied(folder, target, overwrite)
            elif is_address:
                packed = Path(scratch, "packed")
                archive.pack(folder, packed, _packing(format))
                send(packed, target, overwrite=overwrite)
            else:
                archive.pack(folder, Path(target).expanduser(), _packing(format))
    except OSError as exc:
        reason = exc.strerror or exc
        raise StoreError(f"cannot export '{entry.tag}' to '{shown(target)}': {reason}") from exc
    return target


def _as_bento(entry: StoredModel, folder: Path) -> Path:
    folder.mkdir()
    bento.write_bento(
        folder,
        name=entry.info["name"],
        version=entry.info["version"],
        created=entry.info["created"],
        kind=entry.info["kind"],
        labels=entry.info["labels"],
        metadata=entry.info["metadata"],
        signatures=entry.info["signatures"],
        cfg=stored_cfg(entry),
        weights=read_weights(entry.path / WEIGHTS),
        custom_objects=entry.custom_objects,
        d2run={"kind": entry.info["kind"], "categories": plain(entry.categories)},
    )
    return folder


def _format_of(path: str) -> str:
    if path.endswith(_SUFFIX["bentoml"]):
        return "bentoml"
    return archive.format_of(path) or archive.FORMATS[0]


def _packing(format: str) -> str:
    return archive.FORMATS[0] if format == "bentoml" else format


def _named(target: str, format: str, entry: StoredModel) -> str:
    """Complete a path: with the model's name in a folder, with the format's suffix elsewhere."""
    suffix = _SUFFIX.get(format, f".{format}")
    place = Path(target).expanduser()
    in_folder = "://" not in target and place.is_dir() and not (place / INFO).is_file()
    if target.endswith("/") or in_folder:
        return f"{target.rstrip('/')}/{entry.tag.replace(':', '-')}{suffix}"
    return target if archive.format_of(target) or not suffix else target + suffix


def _copied(folder: Path, target: str, overwrite: bool) -> None:
    if "://" in target:
        raise ConfigError("format=dir writes to this machine's disks; choose an archive to send")
    place = Path(target).expanduser()
    place.parent.mkdir(parents=True, exist_ok=True)
    with staged(place.parent) as copy:
        for file in folder.iterdir():
            shutil.copyfile(file, copy / file.name)
        sync(copy)
        if overwrite and place.exists():
            if not (place / INFO).is_file():
                raise StoreError(f"'{place}' is no exported model, so it is not replaced")
            shutil.rmtree(place)
        copy.rename(place)
