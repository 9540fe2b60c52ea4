"""Models out of the store and into it: archives, folders, addresses, BentoML, training outputs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, ModelExistsError, StoreError
from pipeline.models.weights.weights import SUFFIXES, read_weights
from pipeline.store.disk.entry import CONFIG, INFO, StoredModel, read_entry, sync
from pipeline.store.disk.local import ModelStore
from pipeline.store.disk.pointers import content
from pipeline.store.disk.schema import check_info
from pipeline.store.disk.staging import staged
from pipeline.store.disk.tags import LATEST, check_version
from pipeline.store.exchange import archive, bento, training
from pipeline.store.exchange.remote import fetch, shown


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
    class_names: Sequence[str] | Mapping[int, str] | str | None = None
    labels: Mapping[str, str] | None = None
    metadata: Mapping[str, Any] | None = None
    ema: bool = False
    trust: bool = False


def import_model(
    path: str | Path,
    *,
    name: str | None = None,
    class_names: Sequence[str] | Mapping[int, str] | str | None = None,
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
                    f"'{shown(path)}' is a whole model of d2run, which keeps its "
                    f"{', '.join(options)}; leave the option out"
                )
            return _take_own(store, folder, scratch)
    except OSError as exc:
        raise StoreError(f"cannot import '{shown(path)}': {exc.strerror or exc}") from exc


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
            there.verify()  # or the user would take a damaged copy for a repaired one
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


def _opened(path: str, scratch: Path) -> Path:
    """Return the folder that a path names: itself, or an archive's content."""
    source = Path(path).expanduser()
    if "://" in path:
        source = scratch / "fetched"
        fetch(path, source)
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
            version = content(latest).strip()
            check_version(version)
            folder = folder / version
            continue
        below = [entry for entry in folder.iterdir() if entry.is_dir()]
        if len(below) != 1:
            break
        folder = below[0]
    raise StoreError(
        f"'{shown(path)}' holds no model: expected {INFO}, as d2run and BentoML write it, or "
        f"{CONFIG} beside a checkpoint, as Detectron2's training writes them"
    )
