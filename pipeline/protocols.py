"""What the parts must be able to do. No base classes: any object with these methods will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pipeline.types import Categories, Frame, Predictions, Report, Result


@runtime_checkable
class Asset(Protocol):
    """One file or stream: the unit of success, retry and resume.

    Attributes:
        id: Path relative to the input, ``/`` separators; unique in a run.
        fps: Frames per second; ``None`` for a still image.
    """

    id: str
    fps: float | None

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    def fingerprint(self) -> str:
        """Return the SHA-256 of the content, in hexadecimal digits."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Open, decode frame by frame, close. Raises DecodeError."""
        ...


@runtime_checkable
class Source(Protocol):
    """Lists the assets of a run, in input order; may be iterated again.

    It may also have ``__len__``; ``skipped() -> list[Skipped]``, what the last look did not take;
    and ``origins() -> list[Origin]``, what tells its input from any other: results of another input
    in the same output are refused. All three are those of the last iteration.
    """

    def __iter__(self) -> Iterator[Asset]:
        """Yield the assets; decodes nothing."""
        ...


@runtime_checkable
class Model(Protocol):
    """What ``model=`` describes: known without torch, loaded on request."""

    @property
    def categories(self) -> Categories:
        """What it can tell apart."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what tells this model from any other, for the record and the fingerprint."""
        ...

    def load(self, device: str) -> tuple[Any, Any]:
        """Return Detectron2's ``CfgNode`` and the module in eval mode on ``device``."""
        ...


@runtime_checkable
class Runnable(Protocol):
    """A model on a device. Entering loads the weights, leaving frees them.

    It may also have, once entered, ``batch_size: int`` (how many frames it takes at once; by
    default the configuration's), ``batch_by_shape: bool`` (whether frames of other shapes may lie
    between those that it takes at once), ``forwards: int`` (on how many threads ``forward``, or
    ``predict``, may be called at the same time; by default one) and ``numerics``, which goes into
    the fingerprint: all that moves its results' digits. Its constructor may take ``least_score:
    float``, ``classes: list[str]`` and ``most: int``: of each frame, instances below that score,
    those of other classes, and of the rest all but the best ``most`` are not needed; see ``Stage``.

    Attributes:
        class_names: Names by class id; one tuple shared by all predictions.
    """

    class_names: tuple[str, ...]

    def __enter__(self) -> Runnable:
        """Load the weights onto the device."""
        ...

    def __exit__(self, *exc_info: object) -> None:
        """Free them."""
        ...

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        """Return the predictions of each frame, in order."""
        ...


@runtime_checkable
class SteppedRunnable(Runnable, Protocol):
    """A runnable whose work on the host can run beside the device.

    ``predict(frames)`` is ``finish`` of what ``forward`` gives for what ``prepare`` gives.
    """

    def prepare(self, frame: Frame) -> Prepared:
        """Do what the model's input needs, such as resizing; on any thread."""
        ...

    def forward(self, prepared: Sequence[Any]) -> list[Any]:
        """Run the model; on up to ``forwards`` threads. The outputs stay valid until ``finish``."""
        ...

    def finish(self, frame: Frame, output: Any) -> Predictions:
        """Make predictions of one frame's output, masks included; on any thread."""
        ...


class Prepared(Protocol):
    """A model's input. It may also have ``nbytes: int``, which then counts towards ``queue_mb``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Inputs of equal shape may share a forward without padding."""
        ...


@runtime_checkable
class Stage(Protocol):
    """Changes, or drops, one frame's result.

    A stage sees one asset's frames in order on one thread, so it may keep state. It may also have
    a method ``check(categories: Categories) -> None``, called before any work, that raises
    ConfigError when the stage does not fit the model; and ``pushdown() -> dict[str, Any]`` that
    says what it drops, if that is all it does: instances below ``least_score``, those of other
    ``classes`` (names), of the rest all but the best ``most`` of each frame. The model is told what
    the leading stages say, so that it can leave out work; the stages run all the same.
    """

    def __call__(self, result: Result, /) -> Result | None:
        """Return the result to go on with; ``None`` drops the frame."""
        ...


@runtime_checkable
class Sink(AbstractContextManager[Any], Protocol):
    """Writes results. Entering makes what it needs, leaving closes it.

    Like a stage it may have ``check(categories)``, called before any work. It may also have
    ``sync() -> None``, which makes durable what was flushed since the last call, for sinks that do
    so for many assets at once; an asset counts as done only after it.
    """

    def write(self, result: Result) -> None:
        """Take one frame's result; nothing need be visible yet."""
        ...

    def flush(self, asset: Asset) -> None:
        """Put the asset's outputs under their final names; durable, unless there is ``sync``."""
        ...

    def discard(self, asset: Asset) -> None:
        """Remove what was written of an asset that failed, by an earlier run too."""
        ...


@runtime_checkable
class Aggregate(Protocol):
    """A file over the whole run, derived from predictions.jsonl by streaming when the run ends.

    It may also have ``files``, names in the output directory: where one is missing, a run that
    finds nothing to do builds them again.
    """

    def build(self, predictions: Path, categories: Categories) -> None:
        """Read ``predictions.jsonl`` and replace the aggregate's file atomically."""
        ...


@runtime_checkable
class Runner(Protocol):
    """Decides how often the work is done, and what is remembered between times."""

    def run(self, job: Any) -> Report:
        """Carry out the job and say how it ended."""
        ...
