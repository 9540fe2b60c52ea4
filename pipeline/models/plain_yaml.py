"""Parses untrusted plain YAML within limits.

A few hundred bytes of YAML can expand to billions of values: aliases of aliases, merges of merges,
endless nesting, numbers that take an hour to compute. So the values are counted before they are
constructed.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_BYTES = 4 << 20
_MAX_NODES = 50_000  # values, keys and groups, with aliases expanded; about 7 s for PyYAML
_MAX_DEPTH = 64
_MAX_DIGITS = 64  # of a number or a date
_NUMBERS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp", "bool"))


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader with a limit on the number of nodes. Subclasses add or change tags."""

    _count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count the nodes."""
        self._count += 1
        if self._count > _MAX_NODES:
            raise ValueError(f"more than {_MAX_NODES} values")
        return super().compose_node(parent, index)


def load_yaml(text: str | bytes, loader: type[Any] = PlainLoader) -> Any:
    """Return the value of a YAML text.

    Args:
        text: At most ``MAX_BYTES``.
        loader: A PlainLoader. ``yaml.CSafeLoader`` is safe only for texts of a few KiB, because
            deep nesting crashes the process.

    Raises:
        yaml.constructor.ConstructorError: The text has a tag that plain YAML does not have.
        yaml.YAMLError: The text is not YAML.
        ValueError: The text exceeds a limit, or a tag does not fit its value.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MiB of text")
    parser = loader(text)
    try:
        node = parser.get_single_node()
        if node is None:
            return None
        _count_nodes(node, {}, 0)
        return parser.construct_document(node)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    except (AttributeError, LookupError, ArithmeticError, TypeError) as exc:
        # raised by PyYAML's constructors if a tag does not fit its value
        raise ValueError(f"a value that does not fit its tag ({exc})") from exc
    finally:
        parser.dispose()


def _count_nodes(node: Any, sizes: dict[int, int], depth: int) -> int:
    """Return the number of nodes in a node, with aliases expanded."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    if (known := sizes.get(id(node))) is not None:
        if not known:
            raise ValueError("an alias that contains itself")
        return known
    sizes[id(node)] = 0  # while the node is being counted
    total = 1
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and len(node.value) > _MAX_DIGITS:
            raise ValueError(f"a number of {len(node.value)} characters")
    else:
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                total += _count_nodes(part, sizes, depth + 1)
        if total > _MAX_NODES:
            raise ValueError(f"more than {_MAX_NODES} values after expanding aliases")
    sizes[id(node)] = total
    return total
