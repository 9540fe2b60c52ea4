"""What ``run.json`` says about a run, as far as the page shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from pipeline.recorded.run import RECORD
from pipeline.system.descriptors import open_to_read

_KEYS = (
    "d2run", "state", "start", "end", "exit_status", "message", "command", "fingerprint", "counts",
    "totals", "skipped", "warnings", "seconds", "inputs_per_s", "busy", "versions", "limits",
    "slowest",
)  # fmt: skip
_MODEL = ("name", "tag", "config", "weights", "weights_sha256", "digest")


def run_facts(directory: Path) -> dict[str, Any]:
    """Return the facts of a run; few if its record cannot be read."""
    try:
        with open_to_read(directory / RECORD) as file:
            record = json.load(file)
    except (OSError, ValueError):
        record = {}
    facts = {key: record.get(key) for key in _KEYS}
    model, device = record.get("model") or {}, record.get("device") or {}
    facts["model"] = {key: model.get(key) for key in _MODEL}
    facts["device"] = {key: device.get(key) for key in ("device", "name")}
    config = record.get("config") or {}
    facts["config"] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    facts["directory"] = directory.name
    return facts
