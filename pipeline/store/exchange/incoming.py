"""Imports models: archives, directories, addresses, BentoML models and training outputs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, ModelExistsError, PipelineError, StoreError
from pipeline.models.weights.weights import SUFFIXES, read_weights
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.disk.pointers import folders_in, read_pointer, versions_in
from pipeline.store.disk.schema import check_info
from pipeline.store.disk.staging import staged
from pipeline.store.disk.tags import LATEST, check_version
from pipeline.store.disk.version import CONFIG, INFO, read_version, sync_files
from pipeline.store.exchange import archive, training
from pipeline.store.exchange.bento_reading import is_bento, module_of, read_bento
from pipeline.store.exchange.foreign import save_foreign
from pipeline.store.exchange.options import ImportOptions
from pipeline.store.exchange.remote import fetch, shown

_MODULE = "pipeline.store"  # in the model.yaml of d2run's models


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
    """Import a model into the store; if the store already has it, nothing changes.

    Args:
        path: An archive or directory of ``export_model``; a ``.bentomodel`` or a directory of
            BentoML's store from ``bentoml.detectron``; the output directory of a Detectron2
            training; or an address that fsspec supports.
        name: For BentoML and training: the model's name in the store.
        class_names: For BentoML and training: names by class id, or a file of names.
        labels: For BentoML and training: labels to find the model by.
        metadata: For BentoML and training: plain values.
        ema: For training: use the averaged weights (``ema_state``).
        trust: Whether the model's custom objects and modules may run code in this process. For
            BentoML, they are loaded to be saved again.
        store: The store; by default the one in ``$D2RUN_HOME``.

    Raises:
        ConfigError: The path or an option does not fit.
        ModelExistsError: Another model has its name and version.
        ModelCorruptError: A file differs from what was exported.
        UntrustedModelError: It has custom objects, and ``trust`` is false.
        StoreError: The path cannot be read, has no model, or is an archive that is refused.
    """
    options = ImportOptions(name, class_names, labels, metadata, ema, trust)
    model, _ = import_path(store or ModelStore(), str(path), options)
    return replace(model, trust=trust)


def import_path(store: ModelStore, path: str, options: ImportOptions) -> tuple[StoredModel, bool]:
    """Import a model; also return whether it was new."""
    try:
        with staged(store.root) as scratch:
            folder = _find_model(_open(path, scratch), path)
            if not (folder / INFO).is_file():
                return training.import_training(store, folder, options)
            if is_bento(folder) or _is_foreign(folder):
                return _import_bento(store, folder, options)
            if options != ImportOptions(trust=options.trust):
                given = [key for key, value in asdict(options).items() if value and key != "trust"]
                raise ConfigError(
                    f"'{shown(path)}' was exported by d2run and keeps its {', '.join(given)}; "
                    "remove the option"
                )
            return _import_own(store, folder, scratch)
    except OSError as exc:
        raise StoreError(f"cannot import '{shown(path)}': {exc.strerror or exc}") from exc


def versions_in_store(path: str) -> list[Path]:
    """Return the versions in the directory of a whole store, of BentoML or d2run.

    Such a directory has ``<name>/<version>/model.yaml`` for at least one model, or the directory
    ``models`` in it has. For any other path, the result is empty.
    """
    folder = Path(path).expanduser()
    if "://" in path or (folder / INFO).is_file() or training.is_output(folder):
        return []
    for root in (folder / "models", folder):
        # the pointer tells a store from an archive's directory with directories around a model
        homes = [home for home in folders_in(root) if (home / LATEST).is_file()]
        if any(versions_in(home) for home in homes):
            return [version for home in homes for version in folders_in(home)]
    return []


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one version in a whole store.

    Attributes:
        tag: The tag in that store.
        model: The imported model; ``None`` after an error.
        is_new: Whether the model was new.
        error: The error.
        is_foreign: Whether d2run cannot import such a model: it is one of another framework, or
            its directory has no ``model.yaml``.
    """

    tag: str
    model: StoredModel | None = None
    is_new: bool = False
    error: PipelineError | None = None
    is_foreign: bool = False


def import_store(
    store: ModelStore, versions: Sequence[Path], options: ImportOptions
) -> Iterator[Outcome]:
    """Import the versions from ``versions_in_store``; an error does not stop the others.

    Raises:
        ConfigError: ``options`` has a name, which only one model can have.
    """
    if options.name:
        raise ConfigError(
            f"the directory is a store of {len(versions)} models, which keep their names; remove "
            "the name, or import the directory of one version"
        )
    for folder in versions:
        tag = f"{folder.parent.name}:{folder.name}"
        try:
            if not (folder / INFO).is_file():
                raise StoreError(f"it has no {INFO}")
            yield Outcome(tag, *import_path(store, str(folder), options))
        except PipelineError as exc:
            is_foreign = not (folder / INFO).is_file() or _is_foreign(folder)
            yield Outcome(tag, error=exc, is_foreign=is_foreign)


def _is_foreign(folder: Path) -> bool:
    """Return whether a directory is a model of another framework."""
    return module_of(folder) not in (None, _MODULE) and not is_bento(folder)


def _import_own(store: ModelStore, folder: Path, scratch: Path) -> tuple[StoredModel, bool]:
    model = read_version(folder)
    check_info(model.info)
    name, version = model.info["name"], model.info["version"]
    model.verify()
    for there in store.list(name):
        if there.tag == model.tag:
            if there.digest != model.digest:
                raise ModelExistsError(
                    f"the store has another model '{model.tag}' ({there.path}); delete that first"
                )
            there.verify()  # otherwise a damaged copy would seem to be repaired
            return there, False
    place = scratch / "model"
    place.mkdir()
    for file in (INFO, *model.info["files"]):
        shutil.copyfile(folder / file, place / file)
    read_version(place).verify()  # the source can change during the copy
    sync_files(place)
    return store.publish(place, name, version), True


def _import_bento(
    store: ModelStore, folder: Path, options: ImportOptions
) -> tuple[StoredModel, bool]:
    model = read_bento(folder, trust=options.trust)
    created = datetime.fromisoformat(model.created)
    tag = options.name or model.name
    return save_foreign(
        store,
        tag if ":" in tag else f"{tag}:{model.version}",
        model.config,
        read_weights(model.weights),
        options,
        origin={"format": "bentoml", "sha256": model.sha256},
        known=model.class_info,
        kind=model.kind,
        labels=model.labels,
        metadata=model.metadata,
        signatures=model.signatures or None,
        model_options=model.options,
        created=created if created.tzinfo else created.replace(tzinfo=timezone.utc),
        custom_objects=model.custom_objects,
        external_modules=model.modules,
    )


def _open(path: str, scratch: Path) -> Path:
    """Return a directory: the path itself, or the unpacked archive."""
    source = Path(path).expanduser()
    if "://" in path:
        source = scratch / "fetched"
        fetch(path, source)
    elif source.is_dir():
        return source
    elif not source.exists():
        raise ConfigError(f"no such file, directory or address: '{path}'")
    elif source.suffix in SUFFIXES:
        raise ConfigError(
            f"'{path}' has only weights; save them with their config and class names: "
            "python -m pipeline.store save NAME --config CONFIG --class-names FILE --weights "
            f"'{path}'"
        )
    unpacked = scratch / "unpacked"
    unpacked.mkdir()
    archive.unpack(source, unpacked)
    return unpacked


def _find_model(folder: Path, path: str) -> Path:
    """Return the model's directory: this one, its only one, or that of BentoML's ``latest``."""
    for _ in range(3):
        if (folder / INFO).is_file() or training.is_output(folder):
            return folder
        latest = folder / LATEST
        if latest.is_file():
            version = read_pointer(latest).strip()
            check_version(version)
            folder = folder / version
            continue
        below = [inner for inner in folder.iterdir() if inner.is_dir()]
        if len(below) != 1:
            break
        folder = below[0]
    if n := len(versions_in_store(path)):
        raise StoreError(
            f"'{path}' is a store of {n} models; import one version's directory, or all of them "
            f"with python -m pipeline.store import '{path}'"
        )
    raise StoreError(
        f"'{shown(path)}' has no model; expected the {INFO} of d2run or BentoML, or the {CONFIG} "
        "and checkpoint of a Detectron2 training"
    )
