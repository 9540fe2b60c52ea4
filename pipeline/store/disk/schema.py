"""Validates the ``model.yaml`` of imported models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pipeline.errors import ConfigError, ModelCorruptError
from pipeline.store.disk.info import ModelInfo
from pipeline.store.disk.options import plain_options
from pipeline.store.disk.plain import (
    parse_categories,
    plain_labels,
    plain_metadata,
)
from pipeline.store.disk.signatures import plain_signatures
from pipeline.store.disk.tags import check_name, check_version
from pipeline.store.disk.version import CONFIG, FILE_NAME, INFO, WEIGHTS

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_info(info: ModelInfo) -> None:
    """Check that d2run could have written a sealed ``model.yaml``.

    Raises:
        ModelCorruptError: A key is missing or not valid; says which.
    """
    for key, check in _CHECKS.items():
        if key in _OPTIONAL and key not in info:
            continue
        try:
            check(info[key])
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as exc:
            problem = f"'{key}' is missing" if key not in info else f"'{key}' is not valid: {exc}"
            raise ModelCorruptError(f"cannot import the model: in its {INFO}, {problem}") from exc


def _files(files: Mapping[str, Mapping[str, Any]]) -> None:
    if not {CONFIG, WEIGHTS} <= set(files):
        raise ValueError(f"{CONFIG} and {WEIGHTS} are required")
    for name, file in files.items():
        if not FILE_NAME.fullmatch(name) or name == INFO:
            raise ValueError(f"a file is called {name!r}")
        if not isinstance(file["size"], int) or not _SHA256.fullmatch(file["sha256"]):
            raise ValueError(f"{name} has no size and SHA-256")


def _created(text: str) -> None:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time zone is required")


def _kind(kind: str) -> None:
    if kind not in ("predictor", "module"):
        raise ValueError(f"expected predictor or module, got {kind!r}")


_OPTIONAL = {"options"}
_CHECKS: dict[str, Any] = {
    "name": check_name,
    "version": check_version,
    "created": _created,
    "kind": _kind,
    "labels": lambda labels: plain_labels(dict(labels.items())),
    "metadata": lambda metadata: plain_metadata(dict(metadata.items())),
    "signatures": lambda signatures: plain_signatures(dict(signatures.items())),
    "options": lambda options: plain_options(dict(options.items())),
    "context": lambda context: dict(context.items()),
    "categories": parse_categories,
    "files": _files,
}
