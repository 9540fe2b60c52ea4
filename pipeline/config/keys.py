"""Unknown keys, and what to write instead."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pipeline.config.arguments import shown
from pipeline.config.schema import SCHEMAS, types
from pipeline.config.targets import NAMED, SPECIAL, declared, find, parts

# By key: the choice that makes the key available; empty if it is available already.
Known = Mapping[str, str]
_CUTOFF, _MARGIN = 0.65, 0.08  # of similarity, 0 to 1
_MAX_HINTS, _MAX_SHOWN = 3, 20


def unknown_keys(config: Mapping[str, Any], elsewhere: Callable[[], Known] = dict) -> Iterator[str]:
    """Yield a message for each unknown key, wherever it is set, and for each missing one.

    Arguments of parts from packages that the user trusts are checked by ``build_job``, which
    imports them.

    Args:
        config: Plain containers; interpolations may be unresolved.
        elsewhere: Returns the keys of options that are not selected; called if a key is unknown.
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
        yield from (
            f"{key} cannot be removed: every job needs it" for key in sorted(wanted - found)
        )
    for group, key, node in parts(config):
        target = _mapping(node).get("_target_")
        if isinstance(node, str) and "${" in node:
            continue  # build_job resolves it and checks again
        if target is None and group in config:
            yield _no_part(group, key, node, config, known(key))
        elif target in declared(group):
            taken = inspect.signature(find(target)).parameters
            unknown = [f"{key}.{name}" for name in _mapping(node) if name not in {*taken, *SPECIAL}]
            yield from (no_option(each, known(each)) for each in unknown)


def no_option(key: str, known: Known) -> str:
    """Return the message for an unknown key, with the most similar ones."""
    if choose := known.get(key):
        return f"no option '{key}' in this job; it belongs to {choose}"
    parent, _, name = key.rpartition(".")
    beside = [each for each in known if each.rpartition(".")[0] == parent and not known[each]]
    near = (_most_similar(name, beside) if parent else []) or _most_similar(name, known)
    if near := sorted(near, key=lambda each: (bool(known[each]), -_similarity(key, each)))[
        :_MAX_HINTS
    ]:
        if near[0] in beside:
            near = [each for each in near if each in beside]
        hints = [f"'{each}'" + (f" ({known[each]})" if known[each] else "") for each in near]
        return f"no option '{key}'; did you mean {' or '.join(hints)}?"
    return f"no option '{key}'" + (f"; known: {', '.join(beside[:_MAX_SHOWN])}" if beside else "")


def _most_similar(name: str, known: Iterable[str]) -> list[str]:
    """Return the paths whose last part is most similar to a name, if any is similar enough."""
    scores = {each: _similarity(name, each.rpartition(".")[2]) for each in known}
    best = max(scores.values(), default=0.0)
    cutoff = best if best == 1 else max(_CUTOFF, best - _MARGIN)
    return [each for each, score in scores.items() if score >= cutoff]


def _no_part(group: str, key: str, node: Any, config: Mapping[str, Any], known: Known) -> str:
    """Return the message for a key that should hold a part but does not."""
    if group not in NAMED:
        return f"{group} has no _target_, the class to build; choose an option: {group}=NAME"
    below = [each for each in known if each.startswith(f"{key}.")]
    chosen = [each for each, part in config[group].items() if "_target_" in _mapping(part)]
    name = key.rpartition(".")[2]
    if isinstance(node, Mapping):
        first = next(iter(node), None)
        path = key if first is None else f"{key}.{first}"
        if any(known[each] for each in below):  # an option of this name exists
            choice = ",".join([*chosen, name])
            return f"{path}: the {group} {name} is not selected; add it: '{group}=[{choice}]'"
        if not any(known[each] for each in known if each.startswith(f"{group}.")):
            return f"{key} has no _target_, the class to build"
        return no_option(path, known)
    if node is None:
        return f"{key} is null; to remove the {group}, write '~{key}'"
    hint = f"{below[0]}={node}" if below else ""  # the first option is the main one
    return f"{key}={shown(node)[:40]} replaces the whole {group}" + (
        f"; did you mean {hint}?" if hint else ""
    )


def paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the full path of each key, including keys of mappings."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if not str(name).startswith("_"):
                path = f"{prefix}.{name}" if prefix else str(name)
                yield path
                yield from paths(value, path)


def _mapping(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, Mapping) else {}


def _similarity(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()
