"""The tags of stored models: ``name``, ``name:latest``, ``name:version``, ``name:alias``."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

from pipeline.errors import ConfigError

LATEST = "latest"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ALLOWED = "1 to 63 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"

_log = logging.getLogger(__name__)


class BentoTag(Protocol):
    """BentoML's ``Tag``."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def version(self) -> str | None: ...  # noqa: D102


class TaggedModel(Protocol):
    """A stored model of d2run or BentoML."""

    @property
    def tag(self) -> Any: ...  # noqa: D102


TagLike: TypeAlias = str | BentoTag | TaggedModel


class Tag(str):
    """``name`` or ``name:version``: a string with two parts, as BentoML's ``Tag``.

    Upper case becomes lower case with a warning, as in BentoML.

    Args:
        name: The name of a model, or with its version ``name:version``.
        version: The version, an alias or ``latest``.

    Raises:
        ConfigError: A part is not valid.
    """

    __slots__ = ()

    def __new__(cls, name: str, version: str | None = None) -> Tag:
        """Convert to lower case, and check both parts."""
        text = _lower_case(name if version is None else f"{name}:{version}")
        name, colon, version = text.partition(":")
        check_name(name)
        if colon and not version:
            raise ConfigError(f"'{text}' has no version after ':'; use '{name}:latest' or '{name}'")
        if colon and version != LATEST:
            check_version(version)
        return super().__new__(cls, text)

    @classmethod
    def from_taglike(cls, tag_like: TagLike) -> Tag:
        """Return the tag of a text, a tag or a model, of d2run or BentoML.

        Raises:
            ConfigError: It is not a tag.
        """
        given = getattr(tag_like, "tag", tag_like)
        if isinstance(given, Tag):
            return given
        if isinstance(given, str):
            return cls(given)
        if isinstance(name := getattr(given, "name", None), str) and hasattr(given, "version"):
            return cls(name, given.version)
        raise ConfigError(
            "expected a tag, as in crack_finder:latest, or a stored model, got "
            f"{'None' if given is None else f'a value of type {type(given).__name__}'}"
        )

    @property
    def name(self) -> str:
        """The part before the colon."""
        return str(self).partition(":")[0]

    @property
    def version(self) -> str | None:
        """The part after the colon; ``None`` for a tag without a version."""
        return str(self).partition(":")[2] or None


@lru_cache(maxsize=1000)  # one warning per name
def _lower_case(text: str) -> str:
    lower = text.lower()
    if lower != text:
        _log.warning("the tag '%s' is converted to lower case: '%s'", text, lower)
    return lower


def is_name(text: str) -> bool:
    """Return whether a text is a valid name of a model or a version."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> None:
    """Raise ConfigError unless the name is valid for a model."""
    if not is_name(name):
        raise ConfigError(f"expected the name of a stored model, {_ALLOWED}, got {name!r}")


def check_version(version: str) -> None:
    """Raise ConfigError unless the name is valid for a version or an alias."""
    if not is_name(version) or version == LATEST:
        raise ConfigError(f"expected a version, {_ALLOWED}, not 'latest', got {version!r}")
