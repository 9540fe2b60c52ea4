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
    """A frame, or the end of its asset if ``frame`` is None.

    Attributes:
        asset: The asset it belongs to.
        frame: ``None`` at the end of the asset.
        counts: Whether it occupies a place in the input: a frame, or an asset without frames.
        pending: Whether its forward has not started yet.
        nbytes: Size of the image and of the model's input or output while it waits in a queue.
        prepared: The model's input, then its output; only for a pipelined runnable.
        predictions: The predictions of the frame.
        error: Why its asset fails.
        crash: What ends the run when its turn comes.
        finished: Signals that forward and ``finish`` are done; ``None`` if nobody needs to wait.
        seconds: Time spent on it, by step.
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
