"""The item that the engine's threads pass on: a frame, or the end of an asset."""

from __future__ import annotations

from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from pipeline.errors import PartialError, PipelineError
from pipeline.protocols import Asset
from pipeline.records import Frame, Predictions


@dataclass(slots=True, eq=False)
class Item:
    """A frame, or the end of its asset if ``frame`` is None.

    Attributes:
        asset: The asset of the frame.
        frame: ``None`` at the end of the asset.
        counts: Whether the item has a place in the input: a frame, or an asset without frames.
        pending: Whether the forward of the frame has not started yet.
        nbytes: Size of the image and of the model's input or output while the item is queued.
        prepared: The model's input, then the model's output; only for a pipelined runnable.
        predictions: The predictions of the frame.
        error: The error that fails the asset.
        partial: Why a part of the asset could not be decoded; the asset does not fail.
        crash: The error that ends the run when the item is written.
        finished: Signals that forward and ``finish`` are done; ``None`` if no thread must wait.
        seconds: Time spent on the item, by step.
    """

    asset: Asset
    frame: Frame | None = None
    counts: bool = True
    pending: bool = False
    nbytes: int = 0
    prepared: Any = None
    predictions: Predictions | None = None
    error: PipelineError | None = None
    partial: PartialError | None = None
    crash: BaseException | None = None
    finished: SimpleQueue[None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
