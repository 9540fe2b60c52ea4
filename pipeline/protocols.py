"""The interfaces between the parts. Any object that has the listed members fits; no base classes.

Required members are in ``Asset``, ``Source``, ``Model``, ``Runnable``, ``Stage``, ``Sink`` and
``Aggregate``. Every optional capability is a protocol of its own, checked with ``isinstance``, or
with ``supports`` where that would be too slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeGuard, TypeVar, runtime_checkable

from pipeline.records import Categories, Frame, Predictions, Result

_Capability = TypeVar("_Capability")
_supported: dict[tuple[type, type], bool] = {}


def supports(part: object, capability: type[_Capability]) -> TypeGuard[_Capability]:
    """Return ``isinstance(part, capability)``, remembered per class of ``part``.

    For checks per asset or per frame: on a protocol, ``isinstance`` takes up to 50 microseconds.
    """
    key = type(part), capability
    known = _supported.get(key)
    if known is None:
        known = _supported[key] = isinstance(part, capability)
    return known


# Assets and sources


@runtime_checkable
class Asset(Protocol):
    """One file or stream: the unit of success, retry and resume.

    Attributes:
        id: Path relative to the input, ``/`` separators; unique in a run.
        is_still: Whether it has exactly one frame. Outputs of other assets are numbered by frame.
    """

    id: str
    is_still: bool

    @property
    def path(self) -> Path:
        """The file that it is read from."""
        ...

    def fingerprint(self) -> str:
        """Return the SHA-256 of the content, in hexadecimal digits."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Open the asset, decode frame by frame, close it.

        Raises:
            DecodeError: The content cannot be decoded.
        """
        ...


@runtime_checkable
class VersionedAsset(Asset, Protocol):
    """An asset that knows which version of its file was decoded.

    Attributes:
        size_bytes: Size of that file; 0 before decoding, ``None`` if it could not be read.
        mtime_ns: Its modification time; ``None`` where it is unknown.
    """

    size_bytes: int | None
    mtime_ns: int | None


@runtime_checkable
class NumberedAsset(Asset, Protocol):
    """An asset whose source assigns image ids.

    Attributes:
        image_id: The id of its first frame; ``None`` to number it in input order.
    """

    image_id: int | None


@runtime_checkable
class ReadableAsset(Asset, Protocol):
    """An asset that reads its file through a replaceable function, such as a worker process.

    Attributes:
        reader: Reads and decodes the file.
    """

    reader: Any


@runtime_checkable
class Closable(Protocol):
    """An asset, a reader or a generator that can be interrupted from another thread.

    The ``close`` of an asset is called when a run stops before ``frames()`` has ended: it makes a
    blocked read return or raise. Without it, the thread of a blocked read is abandoned.
    """

    def close(self) -> None:
        """Stop the work in progress and free what it holds; can be repeated."""
        ...


class SkippedEntry(Protocol):
    """An entry of the input that no asset was made of."""

    path: str
    reason: str

    @property
    def lost(self) -> bool:
        """Whether it may hide images, such as a directory that cannot be read."""
        ...


@runtime_checkable
class Source(Protocol):
    """Lists the assets of a run, in input order; can be iterated repeatedly."""

    def __iter__(self) -> Iterator[Asset]:
        """Yield the assets; decodes nothing."""
        ...


@runtime_checkable
class SkippingSource(Source, Protocol):
    """A source that reports the entries it skipped."""

    def skipped(self) -> Sequence[SkippedEntry]:
        """Return what the last iteration skipped."""
        ...


@runtime_checkable
class IdentifiedSource(Source, Protocol):
    """A source that can tell its input from any other."""

    def origins(self) -> Sequence[Any]:
        """Return the origins of the last iteration.

        A run into an output that holds results of other origins is refused.
        """
        ...


# Models and runnables


@runtime_checkable
class Model(Protocol):
    """What ``model=`` describes: known without torch, loaded on request."""

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
class DescribedRunnable(Runnable, Protocol):
    """A runnable that describes where and how it computes, for run.json and the summary."""

    def describe(self) -> Mapping[str, Any]:
        """Return the device and what it computes with; valid once entered."""
        ...


@runtime_checkable
class Warns(Protocol):
    """A model or runnable with warnings about its results.

    Attributes:
        warnings: Sentences for people.
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


# Stages


@runtime_checkable
class Stage(Protocol):
    """Changes or drops one frame's result.

    A stage sees one asset's frames in order, on one thread, so it may keep state; see
    ``BeginsAssets``.
    """

    def __call__(self, result: Result, /) -> Result | None:
        """Return the changed result; ``None`` drops the frame."""
        ...


@runtime_checkable
class BeginsAssets(Protocol):
    """A stage with state: it is notified before the first frame of each asset.

    Not called for an asset without frames, which always fails. An error fails the asset.
    """

    def begin(self, asset: Asset) -> None:
        """Reset the state that belongs to one asset."""
        ...


@dataclass(frozen=True, slots=True)
class Pushdown:
    """What a stage drops, so that the model can skip computing it.

    Attributes:
        min_score: Instances with a lower score are dropped.
        classes: Instances of other classes are dropped; names, ``None`` for all classes.
        max_instances: Of the remaining instances, only those with the highest scores are kept,
            per frame; ``None`` for all.
    """

    min_score: float | None = None
    classes: Sequence[str] | None = None
    max_instances: int | None = None


@runtime_checkable
class PushesDown(Protocol):
    """A stage that only drops instances, by score, class or rank.

    The leading stages' answers are passed to the model. The stages run all the same.
    """

    def pushdown(self) -> Pushdown:
        """Return what the stage drops."""
        ...


# Sinks and aggregates


@runtime_checkable
class Sink(AbstractContextManager[Any], Protocol):
    """Writes results, asset by asset. Entering opens what it needs, leaving closes it.

    One thread calls ``begin``, ``write`` once per frame that no stage dropped, then ``flush`` or
    ``discard``; the next asset follows. An asset that fails before its first frame, or has none,
    gets no ``begin``, only ``discard``.

    Attributes:
        outputs: Names that it owns in the run directory, directories with a trailing ``/``. They
            are cleared on restart, protected on resume and shown by ``runner=plan``.
    """

    outputs: tuple[str, ...]

    def begin(self, asset: Asset) -> None:
        """Prepare for an asset, before its first frame; an encoder can open its file here.

        An error fails the asset.
        """
        ...

    def write(self, result: Result) -> None:
        """Write one frame's result; nothing needs to be visible yet."""
        ...

    def flush(self, asset: Asset) -> None:
        """Move the asset's outputs to their final names; durable unless the sink is ``Durable``."""
        ...

    def discard(self, asset: Asset) -> None:
        """Remove the outputs of a failed asset, including those of an earlier run."""
        ...


@runtime_checkable
class Durable(Protocol):
    """A sink that makes the outputs of many assets durable at once."""

    def sync(self) -> None:
        """Make durable what was flushed since the last call; only then are the assets done."""
        ...


@runtime_checkable
class Aggregate(Protocol):
    """A file over the whole run, derived from ``predictions.jsonl`` when the run ends.

    Aggregates are not part of the fingerprint: one that is added to a finished run is built then.

    Attributes:
        is_aggregate: Always true; a sink that happens to have ``build`` is not an aggregate.
        outputs: As for ``Sink``.
    """

    is_aggregate: Literal[True]
    outputs: tuple[str, ...]

    def build(self, journal: Path, categories: Categories) -> None:
        """Read the journal, ``predictions.jsonl``, and replace the outputs atomically."""
        ...


# Checks


@runtime_checkable
class Checkable(Protocol):
    """A stage, sink or aggregate that can be checked against the model before any work."""

    def check(self, categories: Categories) -> None:
        """Raise ConfigError if the part does not fit the model."""
        ...


@runtime_checkable
class CheckableSource(Source, Protocol):
    """A source that can be checked before any work."""

    def check(self) -> None:
        """Raise ConfigError if there is nothing to list."""
        ...
