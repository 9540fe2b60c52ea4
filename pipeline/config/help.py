"""``--help``: the groups, and every key with its value and a sentence from ``conf/``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill, wrap
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.types import RunMode
from omegaconf import OmegaConf

from pipeline.config.loader import Loader
from pipeline.config.schema import GROUPS, ModelConfig
from pipeline.config.targets import NAMED, SPECIAL
from pipeline.redaction import redacted
from pipeline.system.terminal import width_of

_KEY = re.compile(r"(?P<indent> *)(?P<name>[\w.-]+):(?: (?P<rest>.*))?")
_COMMENT = re.compile(r"""(?:[^"'#]|"[^"]*"|'[^']*'|(?<! )#)*? #\s*(?P<text>.*)""")
_INDENT, _COLUMN, _WIDTH = "  ", 32, 80


def help_text(loader: Loader, config_name: str, overrides: Sequence[str]) -> str:
    """Return the help on the default job, or on the group options that the overrides choose.

    Args:
        loader: Composes the configuration.
        config_name: The primary configuration.
        overrides: The command line's, for Hydra's grammar.

    Raises:
        ConfigError: The configuration does not compose.
    """
    cfg = loader.load_configuration(config_name, list(overrides), RunMode.RUN)
    choices: Any = OmegaConf.to_container(cfg.hydra.runtime.choices)
    config: Any = redacted(OmegaConf.to_container(cfg))
    hydra, width = config.pop("hydra")["help"], width_of(sys.stdout) or _WIDTH
    chosen = {override.lstrip("+").partition("=")[0] for override in overrides}
    groups = [group for group in GROUPS if group in chosen]
    if groups:
        return "\n\n".join(_section(loader, config, choices, group, width) for group in groups)
    options = {group: loader.repository.get_group_options(group) for group in GROUPS}
    listed = [
        fill(f"{group}: {', '.join(names)}", width, subsequent_indent=_INDENT)
        for group, names in options.items()
    ]
    sentences = key_sentences(_read(loader, config_name) or _read(loader, "config"))
    own = {name: value for name, value in config.items() if name not in GROUPS}
    return "\n\n".join(
        [
            hydra["header"].rstrip(),
            "Groups (GROUP=OPTION, or 'GROUP=[OPTION,...]' for stage and sink)",
            "\n".join(listed),
            "Options (KEY=VALUE), with their values in this job",
            "\n".join(_lines(own, sentences, "", width)),
            *(_section(loader, config, choices, group, width) for group in GROUPS),
            hydra["footer"].rstrip(),
        ]
    )


def key_sentences(text: str) -> dict[str, str]:
    """Return the comment on each key of a YAML file, by the key's full path.

    A comment is on the line of its key, or on the lines above it. The first lines of a file
    describe the file.
    """
    sentences: dict[str, str] = {}
    parents: list[tuple[int, str]] = []  # indentation and name
    above: list[str] = []
    lines = text.splitlines()
    start = len(usage(text))
    for line in lines[start:]:
        if line.lstrip().startswith("#"):
            above.append(line.strip().lstrip("# "))
        elif key := _KEY.fullmatch(line):
            while parents and parents[-1][0] >= len(key["indent"]):
                parents.pop()
            parents.append((len(key["indent"]), key["name"]))
            behind = _COMMENT.match(f" {key['rest'] or ''}")
            path = ".".join(name for _, name in parents)
            sentences[path] = " ".join([*above, *([behind["text"]] if behind else [])])
            above = []
    return {path: sentence for path, sentence in sentences.items() if sentence}


def usage(text: str) -> list[str]:
    """Return the comment at the start of a YAML file, line by line."""
    found = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        found.append(line.removeprefix("#").removeprefix(" "))
    return found


def option_sentences(loader: Loader, group: str, options: Sequence[str]) -> dict[str, str]:
    """Return the sentence on each key of a group, by its path in the group.

    An option's own file comes first, then the other files of the group: an option that builds on
    another one need not repeat its sentences. A key that only refers to a top-level key has the
    sentence of that key. Keys of ``model`` are also explained by their schema.
    """
    others = loader.repository.get_group_options(group, ObjectType.CONFIG)
    general = key_sentences(_read(loader, "config"))
    sentences = _schema_sentences() if group == "model" else {}
    for option in [*reversed(others), *reversed(options)]:
        text = _read(loader, f"{group}/{option}")
        for path, key in re.findall(r"^ *(\w+): \$\{(\w+)\}", text, re.MULTILINE):
            sentences.setdefault(path, general.get(key, ""))
        sentences |= key_sentences(text)
    return {path: sentence for path, sentence in sentences.items() if sentence}


def _section(
    loader: Loader, config: Mapping[str, Any], choices: Mapping[str, Any], group: str, width: int
) -> str:
    """Return the help on the chosen options of a group."""
    several = group in NAMED
    options = list(config[group]) if several else [str(choices.get(group))]
    lines = [f"{group}={_plain(options if several else options[0])}"]
    for option in options:
        lines += [f"{_INDENT}{line}" for line in usage(_read(loader, f"{group}/{option}"))]
    sentences = {
        f"{group}.{path}": text for path, text in option_sentences(loader, group, options).items()
    }
    lines += _lines({group: config[group]}, sentences, "", width)
    return "\n".join(lines)


def _lines(
    node: Mapping[str, Any], sentences: Mapping[str, str], prefix: str, width: int
) -> Iterator[str]:
    for name, value in node.items():
        path = f"{prefix}{name}"
        if name in SPECIAL:
            continue
        if isinstance(value, Mapping) and value:
            yield from _lines(value, sentences, f"{path}.", width)
            continue
        option = f"{_INDENT}{path}={_plain(value)}"
        text = wrap(sentences.get(path, ""), max(width - _COLUMN, 20))
        if len(option) + 2 > _COLUMN or not text:
            yield option
        else:
            yield f"{option:{_COLUMN}}{text.pop(0)}"
        yield from (f"{'':{_COLUMN}}{line}" for line in text)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return "{}"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _schema_sentences() -> dict[str, str]:
    """Return the sentences of the model's schema, which has keys that no file of ``conf/`` sets."""
    text = inspect.getdoc(ModelConfig) or ""
    _, _, attributes = text.partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    plain = {name: " ".join(sentence.split()).rstrip(".") for name, sentence in found}
    return {name: sentence[0].lower() + sentence[1:] for name, sentence in plain.items()}


def _read(loader: Loader, path: str) -> str:
    """Return the text of a configuration file, empty if there is none."""
    for source in loader.repository.get_sources():
        file = Path(source.path) / f"{path}.yaml"
        if source.scheme() == "file" and file.is_file():
            return file.read_text(encoding="utf-8")
    return ""
