"""Capabilities that parts of any kind can have, and how they are looked up."""

from __future__ import annotations

from typing import Protocol, TypeGuard, TypeVar, runtime_checkable

_Capability = TypeVar("_Capability")
_supported: dict[tuple[type, type], bool] = {}


def supports(part: object, capability: type[_Capability]) -> TypeGuard[_Capability]:
    """Return ``isinstance(part, capability)``, remembered per class of ``part``.

    For checks per asset or per frame: on a protocol, ``isinstance`` takes up to 50 microseconds.
    """
    key = type(part), capability
    known = _supported.get(key)
    if known is None:
        known = _supported[key] = isinstance(part, capability)
    return known


@runtime_checkable
class Closable(Protocol):
    """An asset, a reader or a generator that can be interrupted from another thread.

    The ``close`` of an asset is called when a run stops before ``frames()`` has ended: it makes a
    blocked read return or raise. Without it, the thread of a blocked read is abandoned.
    """

    def close(self) -> None:
        """Stop the work in progress and free what it holds; can be repeated."""
        ...


@runtime_checkable
class Sized(Protocol):
    """An object whose memory counts toward ``queue_mb``."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        ...


@runtime_checkable
class Warns(Protocol):
    """A model or runnable with warnings about its results.

    Attributes:
        warnings: Sentences for people.
    """

    warnings: list[str]
