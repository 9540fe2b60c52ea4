"""The signatures of a model: its callable methods and their options, as in BentoML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.store.disk.plain import expect_mapping, plain_value

DEFAULT_SIGNATURES = {"__call__": {"batchable": False}}
_OPTIONS = ("batchable", "batch_dim", "input_spec", "output_spec")


class Signature(dict[str, Any]):
    """The options of a method: a mapping and, as BentoML's ``ModelSignature``, attributes."""

    @property
    def batchable(self) -> bool:
        """Whether the method accepts several images."""
        return bool(self.get("batchable", False))

    @property
    def batch_dim(self) -> tuple[int, int]:
        """The dimension that counts the images in the input, and that in the output."""
        dim = self.get("batch_dim", 0)
        return (dim, dim) if isinstance(dim, int) else tuple(dim)

    @property
    def input_spec(self) -> Any:
        """A description of the input, for the user."""
        return self.get("input_spec")

    @property
    def output_spec(self) -> Any:
        """A description of the output, for the user."""
        return self.get("output_spec")

    def to_dict(self) -> dict[str, Any]:
        """Return it as BentoML shows it: with both dimensions if it is batchable."""
        return dict(self) | ({"batch_dim": [*self.batch_dim]} if self.batchable else {})

    def __eq__(self, other: object) -> bool:
        """Return whether another signature, of d2run or BentoML, or a mapping is equal."""
        if isinstance(other, Mapping):
            return dict(self) == dict(other)
        if not hasattr(other, "batchable"):
            return NotImplemented
        return all(getattr(self, key) == getattr(other, key, None) for key in _OPTIONS)

    __hash__ = None


def plain_signatures(signatures: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return a plain copy of signatures for ``model.yaml``.

    Args:
        signatures: Options, or BentoML's ``ModelSignature`` objects, by the name of the method.

    Raises:
        ConfigError: A signature is not valid.
    """
    given = expect_mapping(signatures, "signatures", f"options, as in {DEFAULT_SIGNATURES}")
    if signatures is None:
        given = DEFAULT_SIGNATURES
    elif not given:
        raise ConfigError(f"signatures is empty; omit it for {DEFAULT_SIGNATURES}")
    plain = {}
    for name, options in given.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"signatures: expected the name of a method, got {name!r:.80}")
        plain[str(name)] = _plain_options(options, f"signature {name}")
    return plain


def _plain_options(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping) and hasattr(given, "batchable"):  # of BentoML
        found = {key: getattr(given, key, None) for key in _OPTIONS}
        given = {key: value for key, value in found.items() if value is not None}
    if not isinstance(given, Mapping) or set(given) - set(_OPTIONS):
        raise ConfigError(
            f"{where}: expected a mapping with {', '.join(_OPTIONS)}, as in "
            f"{DEFAULT_SIGNATURES['__call__']}, got {given!r:.80}"
        )
    options: dict[str, Any] = {"batchable": False} | plain_value(given, where)
    if not isinstance(options["batchable"], bool):
        raise ConfigError(
            f"{where}: batchable: expected true or false, got {options['batchable']!r:.80}"
        )
    dim = options.get("batch_dim", 0)
    pair = dim if isinstance(dim, list) else [dim, dim]
    if len(pair) != 2 or any(type(one) is not int for one in pair):
        raise ConfigError(
            f"{where}: batch_dim: expected a dimension or a pair, of the input and the output, "
            f"as in 0 or [0, 0], got {dim!r:.80}"
        )
    return options
