"""Plain YAML that comes from elsewhere, parsed within limits.

A few hundred bytes of YAML can stand for billions of values: aliases of aliases, merges of merges,
nesting without end, numbers that take an hour to compute. So what a text stands for is counted
before any of it is made.
"""

from __future__ import annotations

from typing import Any

import yaml  # type: ignore[import-untyped]

MAX_BYTES = 4 << 20
_MAX_NODES = 50_000  # some 7 s for PyYAML; values, keys and groups, with aliases written out
_MAX_DEPTH = 64
_MAX_DIGITS = 64  # of a number or a date
_NUMBERS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp", "bool"))


class PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, which stops at so many nodes; subclasses add or change tags."""

    _count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count what is read."""
        self._count += 1
        if self._count > _MAX_NODES:
            raise ValueError(f"more than {_MAX_NODES} values")
        return super().compose_node(parent, index)


def load_yaml(text: str | bytes, loader: type[Any] = PlainLoader) -> Any:
    """Return what a text of YAML holds.

    Args:
        text: At most ``MAX_BYTES``.
        loader: A PlainLoader; ``yaml.CSafeLoader`` only for texts of a few KiB, because deep
            nesting ends the process.

    Raises:
        yaml.constructor.ConstructorError: It has a tag that is not plain YAML's.
        yaml.YAMLError: It is not YAML.
        ValueError: It goes beyond a limit, or a tag does not fit its value.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MiB of text")
    parser = loader(text)
    try:
        node = parser.get_single_node()
        if node is None:
            return None
        _expanded(node, {}, 0)
        return parser.construct_document(node)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    except (AttributeError, LookupError, ArithmeticError, TypeError) as exc:
        # what PyYAML's constructors raise where a tag does not fit its value
        raise ValueError(f"a value that does not fit its tag ({exc})") from exc
    finally:
        parser.dispose()


def _expanded(node: Any, sizes: dict[int, int], depth: int) -> int:
    """Return the number of nodes that a node stands for with its aliases written out."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    if (known := sizes.get(id(node))) is not None:
        if not known:
            raise ValueError("an alias within what it stands for")
        return known
    sizes[id(node)] = 0  # while it is being counted
    total = 1
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and len(node.value) > _MAX_DIGITS:
            raise ValueError(f"a number of {len(node.value)} characters")
    else:
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                total += _expanded(part, sizes, depth + 1)
        if total > _MAX_NODES:
            raise ValueError(f"more than {_MAX_NODES} values, with its aliases written out")
    sizes[id(node)] = total
    return total
