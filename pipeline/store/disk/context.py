"""The software that a model is saved with."""

from __future__ import annotations

import sys
from typing import Any

from pipeline.system.versions import library_versions


def framework_context() -> dict[str, Any]:
    """Return the framework and its versions; ``None`` for packages that are not installed."""
    installed = library_versions()
    versions = {name: installed[name] for name in ("d2run", "detectron2", "torch", "torchvision")}
    return {
        "framework": "detectron2",
        "versions": {"python": sys.version.split()[0], **versions},
    }
