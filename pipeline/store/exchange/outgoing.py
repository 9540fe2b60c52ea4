"""Exports models to files, directories and addresses, for d2run and for BentoML."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import ConfigError, StoreError
from pipeline.models.weights.weights import read_weights
from pipeline.store.api.building import stored_cfg
from pipeline.store.api.custom import import_arguments
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.disk.plain import plain_categories
from pipeline.store.disk.staging import staged
from pipeline.store.disk.tags import Tag, TagLike, check_version
from pipeline.store.disk.version import INFO, WEIGHTS, ModelVersion, read_version, seal, sync_files
from pipeline.store.exchange import archive
from pipeline.store.exchange.bento_service import BENTOFILE, write_service
from pipeline.store.exchange.bento_writing import write_bento
from pipeline.store.exchange.remote import send, shown


def export_model(
    tag: TagLike,
    path: str | Path = ".",
    output_format: str | None = None,
    *,
    name: str | None = None,
    overwrite: bool = False,
    trust: bool = False,
    store: ModelStore | None = None,
    format: str | None = None,
) -> str:
    """Write a stored model to a file, a directory or an address.

    Args:
        tag: A tag or the result of ``get``, of d2run or BentoML.
        path: A file; an existing directory, or a path with a trailing ``/``, for a file
            ``<name>-<version>`` in it; or an address that fsspec supports, such as
            ``s3://bucket/``.
        output_format: A key of ``FORMATS`` or ``ALIASES``; by default the format of the path's
            suffix, otherwise ``tar.xz``.
        name: Export it as ``name``, or ``name:version``, instead of its own.
        overwrite: Replace an existing target.
        trust: For ``bentoml``: load the custom objects, which must be pickled again. For
            ``bento-service``: the service may import the model's external modules.
        store: The store; by default the one in ``$D2RUN_HOME``.
        format: The same as ``output_format``.

    Returns:
        The path or address that was written.

    Raises:
        ConfigError: The format is unknown or is not that of the path's suffix, or the name is not
            valid.
        ModelNotFoundError: There is no such model.
        ModelCorruptError: A file differs from what was saved.
        UntrustedModelError: ``trust`` is required.
        StoreError: The target exists or cannot be written.
    """
    model = tag if isinstance(tag, StoredModel) else (store or ModelStore()).get(tag, trust=trust)
    model.verify()
    renamed = _renamed(model.tag, name)
    target = str(path)
    format = resolve_format(target, format if output_format is None else output_format)
    form = FORMATS[format]
    target = _target_path(target, form, renamed)
    is_address = "://" in target
    if is_address and form.packing is None:
        raise ConfigError(
            f"format={format} cannot write to an address: '{shown(target)}'. Use an archive"
        )
    if not is_address and not overwrite and Path(target).expanduser().exists():
        raise StoreError(f"'{target}' already exists; choose another path or add --force")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = form.prepare(model, renamed, Path(scratch, "model"))
            place = Path(scratch, "packed") if is_address else Path(target).expanduser()
            if form.packing is None:
                _copy(folder, place, overwrite, form.marker)
            else:
                archive.pack(folder, place, archive.format_of(target) or form.packing)
            if is_address:
                send(place, target, overwrite=overwrite)
    except OSError as exc:
        reason = exc.strerror or exc
        raise StoreError(f"cannot export '{model.tag}' to '{shown(target)}': {reason}") from exc
    return target


def _own(model: StoredModel, tag: Tag, folder: Path) -> Path:
    """Return the model's directory, or a copy with another tag."""
    if tag == model.tag:
        return model.path
    folder.mkdir()
    for file in model.info["files"]:
        shutil.copyfile(model.path / file, folder / file)
    info = {key: model.info[key] for key in model.info if key not in ("files", "digest")}
    seal(folder, info | {"name": tag.name, "version": tag.version})
    read_version(folder).verify()
    return folder


def _bento(model: StoredModel, tag: Tag, folder: Path) -> Path:
    """Write the model in BentoML's format."""
    folder.mkdir()
    write_bento(
        folder,
        name=tag.name,
        version=str(tag.version),
        created=model.info["created"],
        kind=model.info["kind"],
        labels=model.info["labels"],
        metadata=model.info["metadata"],
        signatures=model.info["signatures"],
        cfg=stored_cfg(model),
        weights=read_weights(model.path / WEIGHTS),
        custom_objects=model.custom_objects,
        d2run={"categories": plain_categories(model.categories)},
        options=model.info.get("options"),
        modules=import_arguments(model),
    )
    return folder


def _service(model: StoredModel, tag: Tag, folder: Path) -> Path:
    """Write a service for BentoML's server, with the model inside."""
    exported: ModelVersion = model
    if tag != model.tag:
        copy = read_version(_own(model, tag, folder.with_name("renamed")))
        exported = replace(copy, trust=model.trust)
    folder.mkdir()
    write_service(exported, folder)
    return folder


@dataclass(frozen=True, slots=True)
class Format:
    """A format of exports.

    Attributes:
        prepare: Returns the directory to export, given the model, the tag to export it as, and the
            path of a directory to create for it if necessary.
        suffix: The suffix of its files.
        packing: The archive format of its files; ``None`` for a plain directory.
        marker: A file in each of its directories, without which no directory is overwritten.
    """

    prepare: Callable[[StoredModel, Tag, Path], Path]
    suffix: str = ""
    packing: str | None = None
    marker: str = INFO


FORMATS = {
    **{name: Format(_own, f".{name}", name) for name in archive.FORMATS},
    "dir": Format(_own),
    "bentoml": Format(_bento, ".bentomodel", "tar.xz"),
    "bento-service": Format(_service, marker=BENTOFILE),
}
ALIASES = {  # BentoML's names
    "xz": "tar.xz",
    "gz": "tar.gz",
    "bz2": "tar.bz2",
    "folder": "dir",
    "bentomodel": "bentoml",
}
_UNSUPPORTED = (".tar.zst", ".tzst", ".tar.lz4", ".tar.lzma", ".7z", ".rar")


def resolve_format(path: str, format: str | None) -> str:
    """Return the format to write to a path: a key of ``FORMATS``.

    Args:
        path: The path or address.
        format: A key of ``FORMATS`` or ``ALIASES``; ``None`` for that of the path's suffix.

    Raises:
        ConfigError: The format is unknown, or the suffix is that of another one.
    """
    ends = path.lower()
    by_suffix = "bentoml" if ends.endswith(".bentomodel") else archive.format_of(path)
    if format is None:
        if ends.endswith(_UNSUPPORTED):
            suffixes = ", ".join(form.suffix for form in FORMATS.values() if form.suffix)
            raise ConfigError(f"'{shown(path)}' has an unsupported suffix; use {suffixes}")
        return by_suffix or "tar.xz"
    found = ALIASES.get(format, format)
    if found not in FORMATS:
        raise ConfigError(
            f"format: expected one of {', '.join((*FORMATS, *ALIASES))}, got '{format}'"
        )
    # BentoML reads all archive formats, by their suffix
    if FORMATS[found].packing and by_suffix not in (None, found) and found != "bentoml":
        raise ConfigError(
            f"'{shown(path)}' has the suffix of format {by_suffix}, not {format}; remove the "
            "format, or choose another path"
        )
    return found


def _renamed(tag: Tag, name: str | None) -> Tag:
    if name is None:
        return tag
    given = Tag(name)
    version = given.version or str(tag.version)
    check_version(version)
    return Tag(given.name, version)


def _target_path(target: str, form: Format, tag: Tag) -> str:
    """Append the model's name to a directory, and the format's suffix to a file."""
    place = Path(target).expanduser()
    is_export = any((place / known.marker).is_file() for known in FORMATS.values())
    in_folder = "://" not in target and place.is_dir() and not is_export
    if target.endswith("/") or in_folder:
        return f"{target.rstrip('/')}/{tag.replace(':', '-')}{form.suffix}"
    return target if archive.format_of(target) else target + form.suffix


def _copy(folder: Path, place: Path, overwrite: bool, marker: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with staged(place.parent) as copy:
        for path in sorted(folder.rglob("*")):
            target = copy / path.relative_to(folder)
            target.mkdir() if path.is_dir() else shutil.copyfile(path, target)
        for path in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
            sync_files(path)
        if overwrite and place.exists():
            if not (place / marker).is_file():
                raise StoreError(f"'{place}' is not an exported model; choose another path")
            shutil.rmtree(place)
        copy.rename(place)
