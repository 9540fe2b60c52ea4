"""The versions of d2run and of the libraries that results depend on."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

VERSION = "0.1.0"

_LIBRARIES = ("torch", "torchvision", "detectron2", "numpy", "opencv-python", "pillow")
# how the summary of the distribution in packaging/detectron2 starts, wherever its wheel was built
_IN_TREE = "Detectron2 without compiled code"
_OFFICIAL_HOSTS = ("dl.fbaipublicfiles.com",)
_OFFICIAL_AUTHOR = "FAIR"
_COMMIT_DIGITS = 10
_DRIVER = "/proc/driver/nvidia/version"


def library_versions() -> dict[str, str | None]:
    """Return the installed version of each library; ``None`` where it is not installed."""
    versions: dict[str, str | None] = {"d2run": VERSION}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def detectron2_origin() -> str | None:
    """Return where the installed Detectron2 comes from, and its version or commit.

    Returns:
        ``in-tree 0.7.2`` for the distribution in ``packaging/detectron2``, ``official build 0.6``
        for a wheel of Detectron2's authors, ``facebookresearch git 9604f5995c`` for a Git
        repository and commit, ``local build 0.6`` for a local directory or wheel,
        ``build of example.com 0.6`` for a wheel from a URL, ``other build 0.6`` if only the version
        is known, ``unknown build`` if not even that; ``None`` if it is not installed.
    """
    try:
        found = metadata.distribution("detectron2")
    except metadata.PackageNotFoundError:
        return "unknown build" if find_spec("detectron2") else None
    if str(found.metadata["Summary"]).startswith(_IN_TREE):
        return f"in-tree {found.version}"
    source = _install_source(found)
    url = urlsplit(str(source.get("url", "")))
    if commit := str(source.get("vcs_info", {}).get("commit_id", "")):
        owner = url.path.strip("/").split("/")[0] or "local"
        return f"{owner} git {commit[:_COMMIT_DIGITS]}"
    if url.hostname in _OFFICIAL_HOSTS:
        return f"official build {found.version}"
    if url.scheme == "file":
        return f"local build {found.version}"
    if url.hostname:
        return f"build of {url.hostname} {found.version}"
    is_official = found.metadata["Author"] == _OFFICIAL_AUTHOR  # an index does not leave a URL
    return f"{'official' if is_official else 'other'} build {found.version}"


def nvidia_driver() -> str | None:
    """Return the version of the NVIDIA kernel driver; ``None`` if there is none."""
    with suppress(OSError):
        found = re.search(r"\s(\d+(?:\.\d+)+)\s", Path(_DRIVER).read_text("utf-8", "replace"))
        return found[1] if found else None
    return None


def _install_source(found: metadata.Distribution) -> dict[str, Any]:
    """Return ``direct_url.json``, which installers write for URLs and directories (PEP 610)."""
    try:
        source = json.loads(found.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return source if isinstance(source, dict) else {}
