"""Numbers of groups of images, which a column of the images names."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, did_you_mean
from runners.evaluate.data import Data
from runners.evaluate.numbers.mistakes import Mistakes
from runners.evaluate.numbers.scores import average_precision

_MAX_SLICES = 50
_COLUMNS = "columns"  # key of a line of predictions.jsonl


def slices(data: Data, column: str, found: Mistakes) -> dict[str, Any]:
    """Return the AP of each kind, and the mistakes, per value of a column.

    Args:
        data: What is compared.
        column: A key of the ground truth's images, or of ``columns`` in ``predictions.jsonl``.
        found: The mistakes of all images.

    Raises:
        ConfigError: No image has the column, or it has too many values.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, (image, record) in enumerate(zip(data.images, data.records, strict=True)):
        values = {**(record.get(_COLUMNS) or {}), **image}
        groups[_text(values.get(column))].append(i)
    if set(groups) == {_text(None)}:
        raise ConfigError(f"slice_by: no image has the column '{column}'{_known(data, column)}")
    if len(groups) > _MAX_SLICES:
        raise ConfigError(
            f"slice_by: the column '{column}' has {len(groups)} values; use one with at most "
            f"{_MAX_SLICES}"
        )
    counts = np.bincount(
        [each["image_id"] - 1 for each in data.dataset.annotations if not each["iscrowd"]],
        minlength=len(data.images),
    )
    return {
        value: {
            "images": len(group),
            "instances": int(counts[group].sum()),
            "errors": int(found.errors[group].sum()),
            **{
                kind: {"AP": average_precision(data.dataset, kind, {i + 1 for i in group})}
                for kind in data.kinds
            },
        }
        for value, group in sorted(groups.items())
    }


def _known(data: Data, column: str) -> str:
    rows = [*data.images, *(record.get(_COLUMNS) or {} for record in data.records)]
    names = dict.fromkeys(key for row in rows for key, value in row.items() if _is_plain(value))
    return did_you_mean(column, names)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "(none)" if value is None else str(value)
