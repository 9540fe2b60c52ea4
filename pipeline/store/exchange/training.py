"""Imports models from training outputs of Detectron2."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, StoreError
from pipeline.models.config_file import read_plain
from pipeline.models.weights.weights import SUFFIXES, read_weights
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.disk.plain import plain_metadata
from pipeline.store.disk.pointers import read_pointer
from pipeline.store.disk.version import CONFIG
from pipeline.store.exchange.foreign import save_foreign
from pipeline.store.exchange.options import ImportOptions
from pipeline.system.files import RegularFile, sha256_file

_POINTER = "last_checkpoint"  # of fvcore.common.checkpoint.Checkpointer
_FINAL = "model_final.pth"
_METRICS = "metrics.json"  # of detectron2.utils.events.JSONWriter
_MAX_METRICS = 64 << 20  # bytes read from its end: about a hundred thousand lines
_MAX_LINE = 1 << 20

_log = logging.getLogger(__name__)


def is_output(folder: Path) -> bool:
    """Return whether a directory is the output of a Detectron2 training."""
    return (folder / CONFIG).is_file() and bool(_checkpoints(folder))


def import_training(
    store: ModelStore, folder: Path, options: ImportOptions
) -> tuple[StoredModel, bool]:
    """Save the last checkpoint of a training; also return whether it was new.

    Raises:
        ConfigError: The config or the class names do not fit.
        ModelExistsError: The name has this version, of another model or with other values.
        StoreError: The checkpoint is ambiguous or cannot be read.
    """
    checkpoint = _last_checkpoint(folder)
    parts = f"{sha256_file(folder / CONFIG)} {sha256_file(checkpoint)} {options.ema}"
    origin = {
        "format": "detectron2",
        "checkpoint": checkpoint.name,
        "sha256": hashlib.sha256(parts.encode()).hexdigest(),
    }
    metrics = _read_metrics(folder / _METRICS, checkpoint)
    return save_foreign(
        store,
        options.name or _model_name(folder),
        read_plain(folder / CONFIG),
        read_weights(checkpoint, ema=options.ema),
        replace(options, metadata=metrics | dict(options.metadata or {})),
        origin=origin,
    )


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


def _last_checkpoint(folder: Path) -> Path:
    """Return the checkpoint that the training wrote last."""
    found = {path.name: path for path in _checkpoints(folder)}
    # the value can be the path at the time of training
    named = read_pointer(folder / _POINTER).strip().rsplit("/", 1)[-1]
    if named in found:
        return found[named]
    only = next(iter(found)) if len(found) == 1 else None
    if last := _FINAL if _FINAL in found else only:
        if named:
            _log.warning(
                "'%s' has no '%s', which %s names; using %s", folder, named, _POINTER, last
            )
        return found[last]
    raise StoreError(
        f"'{folder}' has {len(found)} checkpoints, but no {named or _POINTER} or {_FINAL}: "
        f"{', '.join(found)}. Choose one: python -m pipeline.store save NAME --config "
        f"{folder / CONFIG} --weights {folder / next(iter(found))}"
    )


def _read_metrics(path: Path, checkpoint: Path) -> dict[str, Any]:
    """Return the last value of each metric, up to the iteration in the checkpoint's name."""
    number = re.search(r"_(\d{1,12})$", checkpoint.stem)
    last = int(number[1]) if number else None
    metrics: dict[str, Any] = {}
    damaged = 0
    for line in _lines(path) if path.is_file() else ():
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError):
            damaged += 1
            continue
        iteration = values.get("iteration")
        if last is None or not isinstance(iteration, int) or iteration <= last:
            metrics |= {key: value for key, value in values.items() if _is_number(value)}
    if damaged:
        _log.warning("'%s': skipped %d lines that are not JSON objects", path, damaged)
    return metrics


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, at most those at its end."""
    with RegularFile(path) as file:
        if file.size > _MAX_METRICS:
            file.seek(-_MAX_METRICS, 2)
            file.readline(_MAX_LINE)  # the rest of a line
        while line := file.readline(_MAX_LINE):
            if line.strip():
                yield line


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that metadata can have."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(ConfigError):
            return bool(plain_metadata({"value": value}))
    return False


def _model_name(folder: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "_", folder.resolve().name.lower()).lstrip("._-")[:63]
    return name or "model"
