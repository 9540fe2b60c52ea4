"""Keys that no job has, and what to write instead."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pipeline.config.arguments import shown
from pipeline.config.schema import SCHEMAS, types
from pipeline.config.targets import NAMED, SPECIAL, declared, find, parts

Known = Mapping[str, str]  # what to choose for a key to be there, by its path; empty: nothing
_CUTOFF, _MARGIN = 0.65, 0.08  # of likeness, 0 to 1
_MEANT, _SHOWN = 3, 20


def unknown_keys(config: Mapping[str, Any], elsewhere: Callable[[], Known] = dict) -> Iterator[str]:
    """Name each key that no job has, whoever set it, and each that is missing.

    Arguments of parts from packages that the user trusts are left to ``build_job``, which imports
    them.

    Args:
        config: Plain containers; interpolations may be unresolved.
        elsewhere: Returns the keys of options that are not chosen; called if something is unknown.
    """

    def known(unknown: str) -> Known:
        here = [path for path in paths(config) if not f"{path}.".startswith(f"{unknown}.")]
        there = {path: choose for path, choose in elsewhere().items() if path not in here}
        return {**dict.fromkeys(here, ""), **there}

    for prefix in SCHEMAS:
        node = config.get(prefix) if prefix else config
        if not isinstance(node, Mapping):
            continue
        found = {f"{prefix}.{name}" if prefix else str(name) for name in node}
        wanted = {key for key in types() if key.rpartition(".")[0] == prefix}
        yield from (no_option(key, known(key)) for key in sorted(found - wanted))
        yield from (f"{key} was removed, and every job needs it" for key in sorted(wanted - found))
    for group, key, node in parts(config):
        target = _mapping(node).get("_target_")
        if isinstance(node, str) and "${" in node:
            continue  # build_job resolves it, and checks again
        if target is None and group in config:
            yield _no_part(group, key, node, config, known(key))
        elif target in declared(group):
            taken = inspect.signature(find(target)).parameters
            unknown = [f"{key}.{name}" for name in _mapping(node) if name not in {*taken, *SPECIAL}]
            yield from (no_option(each, known(each)) for each in unknown)


def no_option(key: str, known: Known) -> str:
    """Say that there is no such key, and which may be meant."""
    if choose := known.get(key):
        return f"no option '{key}' in this job; it is one of {choose}"
    parent, _, name = key.rpartition(".")
    beside = [each for each in known if each.rpartition(".")[0] == parent and not known[each]]
    near = (_most_like(name, beside) if parent else []) or _most_like(name, known)
    if near := sorted(near, key=lambda each: (bool(known[each]), -_likeness(key, each)))[:_MEANT]:
        if near[0] in beside:
            near = [each for each in near if each in beside]
        meant = [f"'{each}'" + (f" ({known[each]})" if known[each] else "") for each in near]
        return f"no option '{key}'; did you mean {' or '.join(meant)}?"
    return f"no option '{key}'" + (f"; known: {', '.join(beside[:_SHOWN])}" if beside else "")


def _most_like(name: str, known: Iterable[str]) -> list[str]:
    """Return the paths whose last part is most like a name, if any is like it."""
    scores = {each: _likeness(name, each.rpartition(".")[2]) for each in known}
    least = max([_CUTOFF, *(score - _MARGIN for score in scores.values())])
    return [each for each, score in scores.items() if score >= least]


def _no_part(group: str, key: str, node: Any, config: Mapping[str, Any], known: Known) -> str:
    """Say what to write where a part should be and is not."""
    if group not in NAMED:
        return f"{group} has no _target_, which names what to build; choose an option: {group}=NAME"
    below = [each for each in known if each.startswith(f"{key}.")]
    chosen = [each for each, part in config[group].items() if "_target_" in _mapping(part)]
    name = key.rpartition(".")[2]
    if isinstance(node, Mapping):
        first = next(iter(node), None)
        path = key if first is None else f"{key}.{first}"
        if any(known[each] for each in below):  # an option of this name could be chosen
            choice = ",".join([*chosen, name])
            return f"{path}: the {group} {name} is not chosen; add it: '{group}=[{choice}]'"
        if not any(known[each] for each in known if each.startswith(f"{group}.")):
            return f"{key} has no _target_: it names no class to build"
        return no_option(path, known)
    if node is None:
        return f"{key} is null; to remove a {group} write '~{key}'"
    meant = " or ".join(f"{each}={node}" for each in below[:3])
    return f"{key}={shown(node)[:40]} replaces the whole {group}" + (
        f"; did you mean {meant}?" if meant else ""
    )


def paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the full path of each key, those of mappings included."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if not str(name).startswith("_"):
                path = f"{prefix}.{name}" if prefix else str(name)
                yield path
                yield from paths(value, path)


def _mapping(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, Mapping) else {}


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()
