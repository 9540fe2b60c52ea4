"""The names of stored models: ``name``, ``name:latest``, ``name:version``, ``name:alias``."""

from __future__ import annotations

import re

from pipeline.errors import ConfigError

LATEST = "latest"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ALLOWED = "1 to 63 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"


class Tag(str):
    """``name:version``: a string with its two parts as attributes, as in BentoML."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The part before the colon."""
        return self.partition(":")[0]

    @property
    def version(self) -> str:
        """The part after the colon."""
        return self.partition(":")[2]


def is_name(text: str) -> bool:
    """Return whether a text is a valid name of a model or a version."""
    return _NAME.fullmatch(text) is not None


def parse_tag(tag: object) -> tuple[str, str]:
    """Return the name and the version of a tag; ``""`` for a tag without a version.

    Raises:
        ConfigError: The value is not a tag.
    """
    name, colon, version = str(tag).partition(":")
    check_name(name)
    if colon and version != LATEST:
        check_version(version)
    return name, version


def check_name(name: str) -> None:
    """Raise ConfigError unless the name is valid for a model."""
    if not is_name(name):
        raise ConfigError(f"expected the name of a stored model, {_ALLOWED}, got {name!r}")


def check_version(version: str) -> None:
    """Raise ConfigError unless the name is valid for a version or an alias."""
    if not is_name(version) or version == LATEST:
        raise ConfigError(f"expected a version, {_ALLOWED}, not 'latest', got {version!r}")
