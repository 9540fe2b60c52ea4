"""Passes limits of the leading stages to the model, so that it computes less."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from pipeline.protocols import PushesDown, Stage


def leading_limits(stages: Iterable[Stage], accepted: Collection[str]) -> dict[str, Any]:
    """Return what the leading stages drop, as arguments of the runnable.

    Scores and classes are collected up to the first stage that is not ``PushesDown``, or up to the
    first ``max_instances``. A limit behind any other stage must not reach the model: other
    instances would take the place of those that the stage drops. Neither may ``max_instances``
    behind classes that the model cannot skip, or behind a stage whose answer is not complete.

    Args:
        stages: The stages in order.
        accepted: Arguments that the runnable accepts and that the user has not set.
    """
    arguments: dict[str, Any] = {}
    complete = True
    for stage in stages:
        if not isinstance(stage, PushesDown):
            break
        dropped = stage.pushdown()
        complete = complete and dropped.complete
        if dropped.min_score is not None:
            arguments["min_score"] = max(dropped.min_score, arguments.get("min_score", 0.0))
        if dropped.classes is not None:
            before = arguments.get("classes", dropped.classes)
            arguments["classes"] = [name for name in dropped.classes if name in before]
        if dropped.max_instances is not None:
            if complete and ("classes" not in arguments or "classes" in accepted):
                arguments["max_instances"] = dropped.max_instances
            break
    return {key: value for key, value in arguments.items() if key in accepted}
