"""The names of stored models: ``name``, ``name:latest``, ``name:version``, ``name:alias``."""

from __future__ import annotations

import re

from pipeline.errors import ConfigError

LATEST = "latest"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ALLOWED = "use a-z, 0-9, '.', '_', '-', at most 63, beginning with a letter or digit"


class Tag(str):
    """``name:version``: a text and, as in BentoML, an object with its two parts."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """What is before the colon."""
        return self.partition(":")[0]

    @property
    def version(self) -> str:
        """What is after it."""
        return self.partition(":")[2]


def is_name(text: str) -> bool:
    """Tell whether a text can name a model or a version."""
    return _NAME.fullmatch(text) is not None


def parse_tag(tag: object) -> tuple[str, str]:
    """Return the name and the version of a tag; ``""`` where it has no version.

    Raises:
        ConfigError: It is not a tag.
    """
    name, colon, version = str(tag).partition(":")
    check_name(name)
    if colon and version != LATEST:
        check_version(version)
    return name, version


def check_name(name: str) -> None:
    """Raise a ``ConfigError`` unless it can name a model."""
    if not is_name(name):
        raise ConfigError(f"{name!r} cannot name a stored model: {_ALLOWED}")


def check_version(version: str) -> None:
    """Raise a ``ConfigError`` unless it can be a version or an alias."""
    if not is_name(version) or version == LATEST:
        raise ConfigError(f"{version!r} cannot be a version: {_ALLOWED}, and not 'latest'")
