"""The content of ``model.yaml``: sealed by its last line, and parsed lazily.

Listing a store of a thousand models needs only the first lines of each file, and parsing all of
them would take too long. So the file is split at its top-level keys, and each is parsed on access.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import yaml

from pipeline.errors import ConfigError, ModelCorruptError
from pipeline.models.config_file import parse_yaml
from pipeline.models.plain_yaml import load_yaml
from pipeline.store.disk.context import ModelContext
from pipeline.store.disk.options import ModelOptions
from pipeline.store.disk.signatures import Signature
from pipeline.store.disk.tags import Tag

_SEALED = re.compile(rb"(?P<body>.*\n)digest: (?P<digest>[0-9a-f]{64})\n", re.DOTALL)
_LARGE = 50_000  # bytes
_SMALL = 4096  # libyaml is 8 times faster, but 20,000 levels of nesting crash the process
_KEY = re.compile(r"^([a-z_]+):", re.MULTILINE)  # lines that belong to a key are indented


class ModelInfo(Mapping[str, Any]):
    """The content of ``model.yaml``: a mapping and, with the names of BentoML, attributes.

    Infos are equal if their digests and options are.

    Args:
        text: The file's content.
        where: The file, as messages show it.

    Raises:
        ModelCorruptError: The content differs from what was sealed.
    """

    def __init__(self, text: bytes, where: str) -> None:
        sealed = _SEALED.fullmatch(text)
        if not sealed or hashlib.sha256(sealed["body"]).hexdigest().encode() != sealed["digest"]:
            raise ModelCorruptError(f"{where} is damaged; save or import the model again")
        self._where = where
        try:
            decoded = sealed[0].decode()
        except UnicodeDecodeError as exc:
            raise ModelCorruptError(f"{where} is not UTF-8 text") from exc
        starts = [*_KEY.finditer(decoded)]
        ends = [match.start() for match in starts[1:]] + [len(decoded)]
        self._sections = {
            match[1]: decoded[match.start() : end] for match, end in zip(starts, ends, strict=True)
        }
        self._values: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            section = _parsed(self._sections[key], self._where)
            if set(section) != {key}:
                raise ModelCorruptError(f"{self._where}: '{key}' is not in the format of d2run")
            self._values[key] = section[key]
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sections)

    def __len__(self) -> int:
        return len(self._sections)

    def __getattr__(self, key: str) -> Any:
        if "_sections" not in self.__dict__:  # during copying
            raise AttributeError(key)
        if key not in self._sections:
            raise AttributeError(f"{self._where} has no '{key}'; it has {', '.join(self)}")
        return self[key]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ModelInfo):
            # not the values, because NaN is not equal to itself
            return bool(self["digest"] == other["digest"]) and self.options == other.options
        return super().__eq__(other)

    def __hash__(self) -> int:
        return hash(self["digest"])

    @property
    def options(self) -> ModelOptions:
        """How the model is run."""
        return ModelOptions(**self.get("options", {}))

    def with_options(self, **options: Any) -> ModelInfo:
        """Return a copy with other options; the file does not change.

        Raises:
            ConfigError: There is no such option, or a value is not valid.
        """
        changed = copy.copy(self)
        changed._sections = self._sections | {"options": ""}
        changed._values = self._values | {"options": self.options.with_options(**options).to_dict()}
        return changed

    @property
    def tag(self) -> Tag:
        """``name:version``."""
        # not validated, because importing reports what is not valid
        return str.__new__(Tag, f"{self.get('name')}:{self.get('version')}")

    @property
    def creation_time(self) -> datetime:
        """Time of saving, with its time zone."""
        return datetime.fromisoformat(self["created"])

    @property
    def signatures(self) -> dict[str, Signature]:
        """The callable methods of the model, by name."""
        return {name: Signature(options) for name, options in self["signatures"].items()}

    @property
    def context(self) -> ModelContext:
        """The software that the model was saved with."""
        return ModelContext.of(self["context"])

    @property
    def api_version(self) -> str:
        """The version of BentoML's interface to Detectron2 models."""
        return "v1"

    def to_dict(self) -> dict[str, Any]:
        """Return BentoML's keys and values, and then the other keys of ``model.yaml``."""
        theirs = {
            "name": self["name"],
            "version": self["version"],
            "module": self["module"],
            "labels": self["labels"],
            "options": self.get("options", {"partial_kwargs": {}}),
            "metadata": self["metadata"],
            "context": self.context.to_dict() | self["context"],
            "signatures": {name: given.to_dict() for name, given in self.signatures.items()},
            "api_version": self.api_version,
            "creation_time": self["created"],
        }
        return theirs | {key: self[key] for key in self if key not in theirs}


def _parsed(section: str, where: str) -> dict[str, Any]:
    if yaml.__with_libyaml__ and len(section) <= _SMALL:
        with suppress(yaml.YAMLError, ValueError):  # parse_yaml has better messages
            if isinstance(data := load_yaml(section, yaml.CSafeLoader), dict):
                return data
    return parse_yaml(section, where, text_keys=False)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True  # a reference would connect one key to another


def _text(dumper: _Dumper, text: str) -> Any:
    # in other styles, PyYAML reads these characters as line breaks
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def sealed(info: Mapping[str, Any]) -> bytes:
    """Return the content of ``model.yaml``, whose last line is the SHA-256 of everything above.

    Raises:
        ConfigError: A value is not plain YAML, or there are too many.
    """
    try:
        body = yaml.dump(dict(info), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        if len(body) > _LARGE:  # smaller ones cannot exceed the limits of reading
            load_yaml(body)
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise ConfigError(
            f"labels, metadata and signatures must be plain values: {exc}. Save other and large "
            "data as custom_objects"
        ) from exc
    return f"{body}digest: {hashlib.sha256(body.encode()).hexdigest()}\n".encode()
