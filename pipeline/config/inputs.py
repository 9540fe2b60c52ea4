"""What ``input`` may be: nothing, a text, or a list of texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.errors import ConfigError
from pipeline.protocols import Source
from pipeline.sources import Several


def normalize_input(config: dict[str, Any]) -> None:
    """Make ``input`` ``None``, a text or a list of at least two; what refers to it follows.

    Args:
        config: A resolved configuration, changed in place.

    Raises:
        ConfigError: ``input`` is an empty list, or holds something that is not a text.
    """
    given = config["input"]
    if given is None:
        return
    inputs = given if isinstance(given, list) else [given]
    if not inputs:
        raise ConfigError("input is an empty list: give a file, a folder, a glob or a list")
    for each in inputs:
        if each is None or isinstance(each, (list, dict)):
            raise ConfigError(f"input: expected a text or a list of texts, got {given!r}")
    # what YAML takes for a number may be the name of a folder
    texts = [each if isinstance(each, str) else str(each) for each in inputs]
    config["input"] = texts[0] if len(texts) == 1 else texts
    if config["source"].get("input") == given:
        config["source"]["input"] = config["input"]


def build_source(config: dict[str, Any], build: Callable[..., Any]) -> Source | None:
    """Build the source: one per input.

    Args:
        config: With a normalized ``input``.
        build: Builds the configured source with these arguments.

    Raises:
        ConfigError: There are several inputs, and the source takes none.
    """
    given = config["input"]
    if given is None:
        return None
    follows = config["source"].get("input") == given
    if isinstance(given, list):
        if not follows:
            raise ConfigError("input is a list, which this source does not take")
        return Several([build(input=each) for each in given])
    source: Source = build(input=given) if follows else build()
    return source


def inputs_of(given: str | list[str] | None) -> list[str]:
    """Return the inputs of a normalized configuration."""
    if given is None:
        return []
    return given if isinstance(given, list) else [given]
