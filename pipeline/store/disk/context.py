"""The software that a model is saved with."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.system.versions import library_versions

_FRAMEWORK = "detectron2"


@dataclass(frozen=True, slots=True)
class ModelContext:
    """The software that a model was saved with, with the attributes of BentoML's ``ModelContext``.

    Attributes:
        framework_name: ``detectron2``.
        framework_versions: The version of each package that was installed, by name.
        python_version: The version of Python.
        bentoml_version: ``None``, because models are saved without BentoML.
    """

    framework_name: str
    framework_versions: dict[str, str]
    python_version: str
    bentoml_version: str | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> ModelContext:
        """Return what ``framework_context`` returned when the model was saved."""
        versions = {name: text for name, text in stored["versions"].items() if text is not None}
        return cls(stored["framework"], versions, versions.pop("python", ""))

    def to_dict(self) -> dict[str, Any]:
        """Return it as a mapping."""
        return asdict(self)


def framework_context() -> dict[str, Any]:
    """Return the framework and its versions; ``None`` for packages that are not installed."""
    installed = library_versions()
    versions = {name: installed[name] for name in ("d2run", _FRAMEWORK, "torch", "torchvision")}
    return {
        "framework": _FRAMEWORK,
        "versions": {"python": sys.version.split()[0], **versions},
    }
