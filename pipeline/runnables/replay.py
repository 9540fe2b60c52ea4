"""Predictions of a finished run in place of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.errors import ConfigError
from pipeline.protocols import Model
from pipeline.recorded import RecordedFrame, RecordedRun
from pipeline.records import Frame, Predictions


class Replay:
    """Returns the predictions that a finished run recorded; no model is loaded.

    Frames come from ``pipeline.sources.recorded.Recorded`` and carry their predictions.

    Attributes:
        class_names: Names by class id.
        limits: The instances that the run dropped. Stages can drop more, not fewer.

    Args:
        run: The run directory.
        model: Must have the class names of the run; by default its categories are the run's.
        device: Has no effect.

    Raises:
        ConfigError: There is no finished run, or the model has other classes.
    """

    def __init__(self, run: str, model: Model | None = None, device: str = "cpu") -> None:
        recorded = RecordedRun(run)
        recorded.check_finished()
        self.class_names: tuple[str, ...] = recorded.categories.thing_names
        self.limits = recorded.limits
        for kind in ("thing_names", "stuff_names"):
            known = getattr(recorded.categories, kind)
            if model is not None and getattr(model.categories, kind) != known:
                raise ConfigError(
                    f"run: '{recorded.path}' was made with a model of other classes; remove model="
                )

    def __enter__(self) -> Replay:
        """Do nothing: there is nothing to load."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: there is nothing to free."""

    def describe(self) -> dict[str, Any]:
        """Return that no model ran, for run.json and the summary."""
        return {"device": None, "name": "no model (replay)", "replay": True, "speedups": []}

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        """Return the recorded predictions of each frame, in order.

        Raises:
            RuntimeError: A frame is not of the run.
        """
        for frame in frames:
            if not isinstance(frame, RecordedFrame):
                raise RuntimeError(
                    f"'{frame.asset_id}' is not of the run; runnable=replay needs source=recorded"
                )
        return [frame.predictions for frame in frames if isinstance(frame, RecordedFrame)]
