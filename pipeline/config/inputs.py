"""The key ``input``: null, a string or a list of strings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.errors import ConfigError
from pipeline.protocols import LiveSource, Source
from pipeline.sources import Several


def normalize_input(config: dict[str, Any]) -> None:
    """Make ``input`` ``None``, a string or a list of at least two, also where it is referred to.

    Args:
        config: A resolved configuration, changed in place.

    Raises:
        ConfigError: ``input`` is an empty list or holds something that is not a string.
    """
    given = config["input"]
    if given is None:
        return
    inputs = given if isinstance(given, list) else [given]
    if not inputs:
        raise ConfigError("input: expected a file, directory, glob or list, got []")
    for each in inputs:
        if each is None or isinstance(each, (list, dict)):
            raise ConfigError(f"input: expected a string or a list of strings, got {given!r}")
    # a directory may have a name that YAML reads as a number
    strings = [each if isinstance(each, str) else str(each) for each in inputs]
    config["input"] = strings[0] if len(strings) == 1 else strings
    if config["source"].get("input") == given:
        config["source"]["input"] = config["input"]


def build_source(config: dict[str, Any], build: Callable[..., Any]) -> Source | None:
    """Build the source: one per input. A source with the argument ``input`` needs an input.

    Args:
        config: With a normalized ``input``.
        build: Builds the configured source with further arguments.

    Raises:
        ConfigError: The source does not refer to ``input``, or not as it must for several inputs.
    """
    given = config["input"]
    if given is None:
        return None if "input" in config["source"] else build()
    if "input" not in config["source"]:
        raise ConfigError("input: this source does not read it; remove input=")
    follows = config["source"].get("input") == given
    if isinstance(given, list):
        if not follows:
            raise ConfigError("input: this source does not support a list")
        sources = [build(input=each) for each in given]
        if any(isinstance(source, LiveSource) for source in sources):
            raise ConfigError("input: a stream cannot be one of several inputs; run it alone")
        return Several(sources)
    source: Source = build(input=given) if follows else build()
    return source
