"""Reads Detectron2's model zoo from the installed package without importing it.

Importing ``detectron2.model_zoo`` imports torch, which takes seconds, and requires
``pkg_resources``, which newer releases of setuptools lack. So its table of weights is parsed.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError


@cache
def zoo_root() -> Path:
    """Return the directory of zoo configs in the installed Detectron2.

    Raises:
        ConfigError: Detectron2 is not installed.
    """
    spec = importlib.util.find_spec("detectron2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ConfigError("Detectron2 is not installed in this Python environment; install it")
    return Path(folders[0]) / "model_zoo" / "configs"


@cache
def zoo_names() -> tuple[str, ...]:
    """Return the sorted names of the zoo's YAML configs, without ``.yaml``."""
    root = zoo_root()
    return tuple(
        sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))
    )


def zoo_url(name: str, mirror: str | None = None) -> str | None:
    """Return the address of the weights for a config; ``None`` if the zoo has none.

    Args:
        name: The config's name, without ``.yaml``.
        mirror: Address to use instead of Detectron2's own prefix.
    """
    table = literals("model_zoo/model_zoo.py", "S3_PREFIX", "CONFIG_PATH_TO_URL_SUFFIX")
    suffix = table["CONFIG_PATH_TO_URL_SUFFIX"].get(name)
    prefix = str(mirror or table["S3_PREFIX"]).rstrip("/")
    return f"{prefix}/{name}/{suffix}" if suffix else None


@cache
def literals(module: str, *names: str) -> dict[str, Any]:
    """Return the literals that a source file of Detectron2 assigns to the given names.

    Args:
        module: The file, relative to the package.
        names: The variables.
    """
    source = zoo_root().parents[1] / module
    found: dict[str, Any] = {}
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in names:
                found[name] = ast.literal_eval(node.value)
    return found
