"""Checks of the options of ``model=`` that need neither the config nor the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import ConfigError
from pipeline.validation import check_number

_OWN_OPTIONS = {  # Detectron2 keys that are set by an option of d2run
    "MODEL.WEIGHTS": "model.weights",
    "MODEL.DEVICE": "device",
}


def option_problems(
    thresholds: Mapping[str, float | None], opts: Sequence[Any], has_no_averages: bool
) -> Iterator[str]:
    """Yield a message for each value that no model accepts.

    Args:
        thresholds: ``score`` and ``nms``; ``None`` for the config's.
        opts: Detectron2's ``[KEY, VALUE, ...]`` list.
        has_no_averages: Whether averages of random weights are requested.
    """
    for name, value in thresholds.items():
        if value is not None:
            try:
                check_number(f"model.{name}_threshold", value, 0, 1)
            except ConfigError as exc:
                yield from exc.problems
    if len(opts) % 2 or not all(isinstance(key, str) for key in opts[::2]):
        yield f"model.opts: expected KEY, VALUE, KEY, VALUE, ..., got {list(opts)}"
    if has_no_averages:
        yield "model.ema: random weights have no averages; set model.weights to a checkpoint"
    for key in opts[::2]:
        if option := _OWN_OPTIONS.get(str(key)):
            yield f"model.opts: {key} cannot be set here; set {option} instead"
