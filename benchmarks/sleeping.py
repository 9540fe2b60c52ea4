"""A model that takes time without using a core: what is left is the overhead of the workers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pipeline.records import Frame, Predictions
from pipeline.runnables.fake import FakeRunnable


class Sleeping(FakeRunnable):
    """The fake model, which sleeps for ``sleep_s`` per frame."""

    def __init__(
        self, model: Any = None, device: str = "cpu", *, sleep_s: float = 0.1, **options: Any
    ) -> None:
        super().__init__(model, device, **options)
        self.sleep_s = sleep_s

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        """Return generated predictions, later."""
        time.sleep(self.sleep_s * len(frames))
        return super().predict(frames)
