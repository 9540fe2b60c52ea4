"""What flows between the engine's threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from pipeline.errors import PipelineError
from pipeline.protocols import Asset
from pipeline.records import Frame, Predictions


@dataclass(slots=True, eq=False)
class Item:
    """A frame on its way, or (``frame`` is None) the end of its asset.

    Attributes:
        asset: What it belongs to.
        frame: ``None`` at the end of the asset.
        counts: Whether it takes a place in the input: a frame, or an asset that holds none.
        pending: It still waits for its forward to begin.
        nbytes: Of the picture and of the model's input, while it waits in a queue.
        prepared: The model's input, then its output; only for a runnable that works in steps.
        predictions: What the model says.
        error: Why its asset fails.
        crash: What ends the run when its turn comes.
        finished: Where is said that forward and ``finish`` are done; ``None`` where it need not
            be waited for.
        seconds: Spent on it, by step.
    """

    asset: Asset
    frame: Frame | None = None
    counts: bool = True
    pending: bool = False
    nbytes: int = 0
    prepared: Any = None
    predictions: Predictions | None = None
    error: PipelineError | None = None
    crash: BaseException | None = None
    finished: SimpleQueue[None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
