"""Compares the settings of a run with those of the results in its output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN = 5


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name each setting that differs: ``stage.min_score.threshold was 0.5, is 0.7``.

    Args:
        old: ``Job.settings()`` of the run that made the results. ``device`` is ``None`` if that run
            loaded no model.
        new: ``Job.settings()`` of this run, in the same form.
    """
    before, now = dict(_flat(old)), dict(_flat(new))
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if not (old.get("device") and new.get("device")):
        keys = [key for key in keys if key.split(".")[0] != "device"]
    weights = "model.weights_sha256"  # of a download, known only afterwards
    if weights in keys and None in (before.get(weights), now.get(weights)):
        keys.remove(weights)
    shown = [f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys[:_SHOWN]]
    return shown + ([f"and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else [])


def _flat(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(settings, Mapping) or not settings:
        yield prefix, settings
        return
    for key, value in settings.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
