"""The protocols of models and runnables, required and optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pipeline.protocols.parts import Pushdown
from pipeline.records import Categories, Frame, Predictions


@runtime_checkable
class Model(Protocol):
    """The model that ``model=`` describes: known without torch, loaded on request."""

    @property
    def categories(self) -> Categories:
        """The classes that the model distinguishes."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what distinguishes this model from any other, for the record and fingerprint."""
        ...

    def load(self, device: str) -> tuple[Any, Any]:
        """Return Detectron2's ``CfgNode`` and the module in eval mode on ``device``."""
        ...


@runtime_checkable
class SavableModel(Model, Protocol):
    """A model that can be saved to the store."""

    def save(self, version: str | None = None) -> Any:
        """Load the model on the CPU, save it under its name and return the stored model."""
        ...


@runtime_checkable
class Runnable(Protocol):
    """A model on a device. Entering loads the weights, leaving frees them.

    The constructor may accept ``min_score: float``, ``classes: list[str]`` and ``max_instances:
    int``, which are set from the leading stages; see ``Pushdown``.

    Attributes:
        class_names: Names by class id; one tuple shared by all predictions.
    """

    class_names: tuple[str, ...]

    def __enter__(self) -> Runnable:
        """Load the weights onto the device."""
        ...

    def __exit__(self, *exc_info: object) -> None:
        """Free the weights."""
        ...

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        """Return the predictions of each frame, in order."""
        ...


@runtime_checkable
class PipelinedRunnable(Runnable, Protocol):
    """A runnable whose work on the host can overlap with work on the device.

    ``predict(frames)`` equals ``finish`` of each output of ``forward`` of each ``prepare(frame)``.
    """

    def prepare(self, frame: Frame) -> Prepared:
        """Compute the model's input, for example by resizing. Called on any thread."""
        ...

    def forward(self, prepared: Sequence[Any]) -> list[Any]:
        """Run the model, on up to ``forwards`` threads. Outputs stay valid until ``finish``."""
        ...

    def finish(self, frame: Frame, output: Any) -> Predictions:
        """Convert one frame's output to predictions, masks included. Called on any thread."""
        ...


@runtime_checkable
class BatchingRunnable(Runnable, Protocol):
    """A runnable that decides itself which frames share a forward; valid once entered.

    Attributes:
        batch_size: The largest number of frames per forward.
        batch_by_shape: Whether to group frames of equal shape that are not neighbors.
    """

    batch_size: Any
    batch_by_shape: bool


@runtime_checkable
class ConcurrentRunnable(Runnable, Protocol):
    """A runnable that supports several forwards at the same time; valid once entered.

    Attributes:
        forwards: The number of threads that may call ``forward`` or ``predict`` at once.
    """

    forwards: Any


@runtime_checkable
class PlacedRunnable(Runnable, Protocol):
    """A runnable that computes on one device.

    Attributes:
        device: ``cpu`` or ``cuda:N``; the configured value, such as ``auto``, before entering.
    """

    device: str


@runtime_checkable
class NumericRunnable(Runnable, Protocol):
    """A runnable that reports what influences the digits of its results; valid once entered.

    Attributes:
        numerics: Precision, engine and the like, in plain containers.
    """

    numerics: Mapping[str, Any]


@runtime_checkable
class ThreadedRunnable(Runnable, Protocol):
    """A runnable whose results depend on its number of CPU threads; valid once entered.

    Attributes:
        threads: Threads per forward; ``None`` where they do not matter.
    """

    threads: int | None


@runtime_checkable
class DescribedRunnable(Runnable, Protocol):
    """A runnable that describes where and how it computes, for run.json and the summary."""

    def describe(self) -> Mapping[str, Any]:
        """Return the device and what it computes with; valid once entered."""
        ...


@runtime_checkable
class FieldsRunnable(Runnable, Protocol):
    """A runnable that knows what its predictions consist of; valid once entered.

    Attributes:
        fields: Names of the optional fields of its predictions, as ``Predictions.fields``.
    """

    fields: tuple[str, ...]


@runtime_checkable
class LimitedRunnable(Runnable, Protocol):
    """A runnable whose predictions lack instances that an earlier run dropped.

    Attributes:
        limits: The instances that were dropped. A stage that would keep any of them is refused.
    """

    limits: Pushdown


@runtime_checkable
class Warns(Protocol):
    """A model or runnable with warnings about its results.

    Attributes:
        warnings: Warnings to show to the user.
    """

    warnings: list[str]


class Prepared(Protocol):
    """A model's input."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Inputs of equal shape can share a forward without padding."""
        ...


@runtime_checkable
class Sized(Protocol):
    """An object whose memory counts toward ``queue_mb``."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        ...
