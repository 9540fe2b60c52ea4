"""Models out of the store and into it: archives, folders, addresses, BentoML, training outputs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, ModelExistsError, StoreError
from pipeline.store import archive, bento, training
from pipeline.store.download import redacted
from pipeline.store.entry import CONFIG, INFO, WEIGHTS, StoredModel, plain, read_entry, sync
from pipeline.store.local import ModelStore
from pipeline.store.predictor import stored_cfg
from pipeline.store.schema import check_info
from pipeline.store.staging import staged
from pipeline.store.tags import LATEST, check_version
from pipeline.store.weights import SUFFIXES, read_weights

FORMATS = (*archive.FORMATS, "dir", "bentoml")
_SUFFIX = {"bentoml": ".bentomodel", "dir": ""}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user wants of a model that has not been in a store of d2run.

    Attributes:
        name: Its name here; by default the one it has.
        class_names: Names by class id, or a file of names.
        labels: Words to find it by, beside those it has.
        metadata: Plain values, beside those it has.
        ema: Take the averaged weights of a training checkpoint.
        trust: Load the pickle of custom objects, which may run any code.
    """

    name: str | None = None
    class_names: Sequence[str] | str | None = None
    labels: Mapping[str, str] | None = None
    metadata: Mapping[str, Any] | None = None
    ema: bool = False
    trust: bool = False


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
                archive.send(packed, target, overwrite=overwrite)
            else:
                archive.pack(folder, Path(target).expanduser(), _packing(format))
    except OSError as exc:
        reason = exc.strerror or exc
        raise StoreError(f"cannot export '{entry.tag}' to '{_shown(target)}': {reason}") from exc
    return target


def import_model(
    path: str | Path,
    *,
    name: str | None = None,
    class_names: Sequence[str] | str | None = None,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    ema: bool = False,
    trust: bool = False,
    store: ModelStore | None = None,
) -> StoredModel:
    """Take a model into the store; one that is there already is left as it is.

    Args:
        path: An archive or a folder of ``export_model``; a ``.bentomodel`` or a folder of BentoML's
            store made by ``bentoml.detectron``; an output folder of Detectron2's training; or an
            address that fsspec knows.
        name: For BentoML and training: its name here.
        class_names: For BentoML and training: names by class id, or a file of names.
        labels: For BentoML and training: words to find it by.
        metadata: For BentoML and training: plain values.
        ema: For training: take the averaged weights (``ema_state``).
        trust: For BentoML: load its custom objects, which may run any code.
        store: By default the one in ``$D2RUN_HOME``.

    Raises:
        ConfigError: Something in the path or the options does not fit.
        ModelExistsError: Another model has its name and version.
        ModelCorruptError: It is not what was exported.
        UntrustedModelError: It has custom objects, and ``trust`` is false.
        StoreError: It cannot be read, is no model, or an archive that is refused.
    """
    wanted = Wanted(name, class_names, labels, metadata, ema, trust)
    return take(store or ModelStore(), str(path), wanted)[0]


def take(store: ModelStore, path: str, wanted: Wanted) -> tuple[StoredModel, bool]:
    """Import a model; tell whether it was new."""
    try:
        with staged(store.root) as scratch:
            folder = _model_folder(_opened(path, scratch), path)
            if not (folder / INFO).is_file():
                return training.take(store, folder, wanted)
            if bento.is_bento(folder):
                return _take_bento(store, folder, wanted)
            if (asked := asdict(wanted)) != asdict(Wanted(trust=wanted.trust)):
                options = [key for key, value in asked.items() if value and key != "trust"]
                raise ConfigError(
                    f"'{_shown(path)}' is a whole model of d2run, which keeps its "
                    f"{', '.join(options)}; leave the option out"
                )
            return _take_own(store, folder, scratch)
    except OSError as exc:
        raise StoreError(f"cannot import '{_shown(path)}': {exc.strerror or exc}") from exc


def _take_own(store: ModelStore, folder: Path, scratch: Path) -> tuple[StoredModel, bool]:
    entry = read_entry(folder)
    check_info(entry.info)
    name, version = entry.info["name"], entry.info["version"]
    entry.verify()
    for there in store.list(name):
        if there.tag == entry.tag:
            if there.digest != entry.digest:
                raise ModelExistsError(
                    f"the store has another '{entry.tag}' ({there.path}); delete that first, or "
                    "keep it"
                )
            return there, False
    place = scratch / "model"
    place.mkdir()
    for file in (INFO, *entry.info["files"]):
        shutil.copyfile(folder / file, place / file)
    read_entry(place).verify()  # the disk may have changed under the copy
    sync(place)
    return store.publish(place, name, version), True


def _take_bento(store: ModelStore, folder: Path, wanted: Wanted) -> tuple[StoredModel, bool]:
    model = bento.read_bento(folder, trust=wanted.trust)
    created = datetime.fromisoformat(model.created)
    return training.store_foreign(
        store,
        f"{wanted.name or model.name}:{model.version}",
        model.config,
        read_weights(model.weights),
        wanted,
        origin={"format": "bentoml", "sha256": model.sha256},
        known=model.class_info,
        kind=model.kind,
        labels=model.labels,
        metadata=model.metadata,
        signatures=model.signatures or None,
        created=created if created.tzinfo else created.replace(tzinfo=timezone.utc),
        custom_objects=model.custom_objects,
    )


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


def _shown(path: str) -> str:
    """Return a path as messages may show it: an address without its password."""
    return redacted(path) if "://" in path else path


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


def _opened(path: str, scratch: Path) -> Path:
    """Return the folder that a path names: itself, or an archive's content."""
    source = Path(path).expanduser()
    if "://" in path:
        source = scratch / "fetched"
        archive.fetch(path, source)
    elif source.is_dir():
        return source
    elif not source.exists():
        raise ConfigError(f"'{path}' is neither a file nor a folder nor an address")
    elif source.suffix in SUFFIXES:
        raise ConfigError(
            f"'{path}' has weights alone; a model is also its config and class names: "
            "python -m pipeline.store save NAME --config CONFIG --class-names FILE --weights "
            f"'{path}'"
        )
    unpacked = scratch / "unpacked"
    unpacked.mkdir()
    archive.unpack(source, unpacked)
    return unpacked


def _model_folder(folder: Path, path: str) -> Path:
    """Find the model in a folder: there, in its only folder, or where BentoML's ``latest`` says."""
    for _ in range(3):
        if (folder / INFO).is_file() or training.is_output(folder):
            return folder
        latest = folder / LATEST
        if latest.is_file():
            version = latest.read_text(errors="replace").strip()
            check_version(version)
            folder = folder / version
            continue
        below = [entry for entry in folder.iterdir() if entry.is_dir()]
        if len(below) != 1:
            break
        folder = below[0]
    raise StoreError(
        f"'{_shown(path)}' holds no model: expected {INFO}, as d2run and BentoML write it, or "
        f"{CONFIG} beside a checkpoint, as Detectron2's training writes them"
    )
