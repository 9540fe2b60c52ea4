"""The versions of d2run and of the libraries that results depend on."""

from __future__ import annotations

from importlib import metadata

VERSION = "0.1.0"

_LIBRARIES = ("torch", "torchvision", "detectron2", "numpy", "opencv-python", "pillow")


def library_versions() -> dict[str, str | None]:
    """Return the installed version of each library; ``None`` where it is not installed."""
    versions: dict[str, str | None] = {"d2run": VERSION}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions
