"""Small predictions and results, for tests of what is written."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.records import Frame, Predictions, Result

STRANGE = "d/caf\udce9.jpg"  # what the name b"d/caf\xe9.jpg" becomes in Python
SIZE = (8, 6)
NAMES = ("person", "cat")


def predictions(n: int = 1, **columns: Any) -> Predictions:
    return Predictions(
        SIZE,
        NAMES,
        boxes=np.tile(np.float32([0.1, 1, 4.5, 7.25]), (n, 1)),
        scores=np.full(n, 0.98, np.float32),
        classes=np.arange(n) % 2,
        **columns,
    )


def result(p: Predictions, asset: str = "a/b.jpg", frame: int = 0, **time: Any) -> Result:
    return Result(Frame(np.zeros((*SIZE, 3), np.uint8), asset, frame, **time), p)
