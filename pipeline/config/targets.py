"""Code that a configuration may run: d2run's own parts and packages that the user trusts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

# Each of these packages lists in PARTS what a configuration may build. Nothing else in them can be
# a target, because much of it runs commands or writes files.
_PACKAGES = {
    "store": "pipeline.store",
    "runnable": "pipeline.runnables",
    "source": "pipeline.sources",
    "stage": "pipeline.stages",
    "sink": "pipeline.sinks",
    "runner": "runners",
}
_OWN = {"pipeline", "runners"}
NAMED = {"stage", "sink"}  # groups with several parts, each under its name
SPECIAL = {"_target_", "_recursive_", "_convert_", "_partial_", "_args_"}  # Hydra acts on them


def parts(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the group, the key and the content of each part of a configuration."""
    for group in _PACKAGES:
        node = config.get(group)
        if group not in NAMED:
            yield group, group, node
        elif isinstance(node, Mapping):
            yield from ((group, f"{group}.{name}", part) for name, part in node.items())


@cache
def declared(group: str) -> tuple[str, ...]:
    """Return the targets of a group, without those of packages that the user trusts."""
    package = _PACKAGES[group]
    return tuple(f"{package}.{name}" for name in import_module(package).PARTS)


def is_own(target: Any) -> bool:
    """Return whether a target is in d2run's own packages."""
    return str(target).split(".")[0] in _OWN


def untrusted(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each ``_target_`` that must not be called, before anything is called.

    Only packages in ``trusted_packages`` are imported for the check. Outside the parts,
    ``_target_`` is plain data: nothing is built from it.
    """
    trusted = set(config.get("trusted_packages") or ()) - _OWN
    for group, key, node in parts(config):
        if not isinstance(node, Mapping) or "_target_" not in node:
            continue
        if problem := _refusal(node["_target_"], (group,), trusted):
            yield f"{key}: {problem}"
        elif is_own(node["_target_"]):
            yield from _not_data(node, key)
        else:
            for path, target in _nested(node, key):
                if problem := _refusal(target, tuple(_PACKAGES), trusted):
                    yield f"{path}: {problem}"


def _refusal(target: Any, groups: tuple[str, ...], trusted: Collection[str]) -> str:
    """Return why a target is refused; empty if it is allowed."""
    known = [name for group in groups for name in declared(group)]
    if not isinstance(target, str):
        return f"_target_: expected the name of a class or a function, got {target!r}"
    package = target.split(".")[0]
    if package in _OWN:
        return "" if target in known else _undeclared(target, groups, known)
    if package in trusted:
        try:
            found = find(target)
        except Exception as exc:
            hint = "; is its folder in PYTHONPATH?" if getattr(exc, "name", "") == package else ""
            return f"cannot import '{target}': {one_line(exc)}{hint}"
        module = str(getattr(found, "__module__", None) or "?")
        package = module.split(".")[0]
        if package in _OWN:  # a trusted package may import d2run's own code
            name = f"{module}.{getattr(found, '__qualname__', '?')}"
            return "" if name in known else _undeclared(f"{target} ({name})", groups, known)
    if package not in trusted:
        allowed = ",".join([*sorted(_OWN), *sorted(trusted), package])
        return (
            f"would run code of the package '{package}' ({target}), which is not "
            f"trusted; to trust it add 'trusted_packages=[{allowed}]'"
        )
    return ""


def _undeclared(target: str, groups: tuple[str, ...], known: list[str]) -> str:
    kind = groups[0] if len(groups) == 1 else "part"
    near = get_close_matches(target, known, n=1, cutoff=0.85)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return f"_target_ '{target}' is not a {kind} of d2run; {hint}"


def _nested(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the key and the target of everything that is built for the arguments."""
    for path, name, value in _keys(node, key):
        if name == "_target_" and path != key:
            yield path, value


def _not_data(node: Any, key: str) -> Iterator[str]:
    """Yield a message for each of Hydra's keys in the arguments of d2run's own parts."""
    for path, name, _ in _keys(node, key):
        if name in SPECIAL and (name, path) != ("_target_", key):
            yield f"{path}: '{name}' is not an option of d2run's parts; remove it"


def _keys(node: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the path of each mapping below a node, with its names and values."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield key, name, value
            yield from _keys(value, f"{key}.{name}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _keys(value, f"{key}.{i}")


def find(target: str) -> Any:
    """Import the object with a dotted name.

    Raises:
        Exception: Whatever importing it raises; ``AttributeError`` if nothing has this name.
    """
    path, *names = target.split(".")
    found: Any = import_module(path)
    for name in names:
        path += f".{name}"
        if isinstance(found, ModuleType) and not hasattr(found, name):
            found = import_module(path)
        else:
            found = getattr(found, name)
    return found


def one_line(exc: BaseException) -> str:
    """Return the type and the message of an exception."""
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
