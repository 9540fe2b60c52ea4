"""The protocols of stages, sinks and aggregates, required and optional."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pipeline.protocols.assets import Asset
from pipeline.records import Categories, Result


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
    """The instances that a stage drops, so that the model need not compute them.

    Attributes:
        min_score: Instances with a lower score are dropped.
        classes: Instances of other classes are dropped; names, ``None`` for all classes.
        max_instances: Of the remaining instances, only those with the highest scores are kept,
            per frame; ``None`` for all.
        complete: Whether the stage drops nothing else. Otherwise, no ``max_instances`` of a later
            stage reaches the model, where it would count what this stage still drops.
    """

    min_score: float | None = None
    classes: Sequence[str] | None = None
    max_instances: int | None = None
    complete: bool = True

    def combined(self, other: Pushdown) -> Pushdown:
        """Return what is dropped by either."""
        scores = [p.min_score for p in (self, other) if p.min_score is not None]
        numbers = [p.max_instances for p in (self, other) if p.max_instances is not None]
        classes = self.classes if other.classes is None else other.classes
        if self.classes is not None and classes is not None:
            classes = [name for name in self.classes if name in classes]
        complete = self.complete and other.complete
        return Pushdown(max(scores, default=None), classes, min(numbers, default=None), complete)


@runtime_checkable
class PushesDown(Protocol):
    """A stage that only drops instances, by score, class or rank.

    The leading stages' answers are passed to the model. The stages run all the same.
    """

    def pushdown(self) -> Pushdown:
        """Return what the stage drops."""
        ...


@runtime_checkable
class DeclaresPixels(Protocol):
    """A stage or sink that says whether it reads ``Frame.image``.

    A part that does not say counts as one that does. ``runnable=replay`` decodes no images if no
    part needs them: frames then have black images of the right size.

    Attributes:
        needs_pixels: Whether it reads the pixels of images.
    """

    needs_pixels: bool


@runtime_checkable
class Sink(AbstractContextManager[Any], Protocol):
    """Writes results, asset by asset. Entering opens what it needs, leaving closes it.

    One thread calls ``begin``, ``write`` once per frame that no stage dropped, then ``flush`` or
    ``discard``; the next asset follows. An asset that fails before its first frame, or has none,
    gets no ``begin``, only ``discard``.

    Attributes:
        outputs: Names that the sink owns in the run directory, directories with a trailing ``/``.
            They are cleared on restart, protected on resume and shown by ``runner=plan``.
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
class SelectiveSink(Sink, Protocol):
    """A sink that does not receive instances with low scores, which the run keeps all the same.

    Attributes:
        min_score: Lowest score in [0, 1]. Compared as float32, like scores.
    """

    min_score: float


@runtime_checkable
class SuspendableSink(Sink, Protocol):
    """A sink that keeps what it has of an asset when a run stops in the middle of it."""

    def suspend(self, asset: Asset) -> None:
        """Do as ``discard``, but keep what makes the next run of the asset faster."""
        ...


@runtime_checkable
class Aggregate(Protocol):
    """A file over the whole run, derived from ``predictions.jsonl`` when the run ends.

    Aggregates are not part of the fingerprint: one that is added to a finished run is built then.
    A sink can be an aggregate too: it writes the files of each asset, and one over the whole run.

    Attributes:
        is_aggregate: Always true; a sink that happens to have ``build`` is not an aggregate.
        outputs: Names of the outputs, as for ``Sink``.
    """

    is_aggregate: Literal[True]
    outputs: tuple[str, ...]

    def build(self, journal: Path, categories: Categories) -> None:
        """Read the journal, ``predictions.jsonl``, and replace the outputs atomically."""
        ...


@runtime_checkable
class RecordAggregate(Aggregate, Protocol):
    """An aggregate that also reads ``run.json`` and images: it is built after the record.

    Attributes:
        reads_record: Always true.
        root: Directory of the images; ``None``: where the run found them.
    """

    reads_record: Literal[True]
    root: str | None

    def build(self, journal: Path, categories: Categories, images: Iterable[Asset] = ()) -> None:
        """Read the run, and replace the outputs atomically.

        Args:
            journal: ``predictions.jsonl``.
            categories: The classes of the model.
            images: The inputs of the run, with their pixels, in its order. Raises ConfigError if
                they are gone.
        """
        ...


@runtime_checkable
class Checkable(Protocol):
    """A stage, sink or aggregate that can be checked against the model before any work."""

    def check(self, categories: Categories) -> None:
        """Raise ConfigError if the part does not fit the model."""
        ...
