"""The protocols of sources and assets, required and optional."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pipeline.records import Categories, Frame


@runtime_checkable
class Asset(Protocol):
    """One file or stream: the unit of success, retry and resume.

    Attributes:
        id: Path relative to the input, ``/`` separators; unique in a run.
        is_still: Whether the asset has exactly one frame. Outputs of other assets are numbered by
            frame.
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
        mtime_ns: Modification time of the file; ``None`` if unknown.
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
class AnnotatedAsset(Asset, Protocol):
    """An asset with values of its own, such as the other columns of the table that lists it.

    They are written to ``predictions.jsonl``. An input whose values change is processed again.
    """

    @property
    def columns(self) -> Mapping[str, str | int | float | bool | None] | None:
        """The values by name, whose numbers are finite; ``None`` if there are none."""
        ...


@runtime_checkable
class ContainedAsset(Asset, Protocol):
    """An asset that is not a file of its own, such as a member of an archive.

    Its ``path`` names it, but there is no such file.
    """

    def status(self) -> tuple[int | None, int | None]:
        """Return its size in bytes and modification time in ns, without reading its content.

        Either is ``None`` if unknown.

        Raises:
            OSError: It no longer exists, or cannot be accessed.
        """
        ...


@runtime_checkable
class FetchedAsset(ContainedAsset, Protocol):
    """An asset whose content takes time to arrive, such as an object in a remote store."""

    def fetch_ahead(self) -> None:
        """Start to fetch the content, if there is room for it; returns at once."""
        ...


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
        """Whether the entry may hide images, such as a directory that cannot be read."""
        ...


@runtime_checkable
class Source(Protocol):
    """Lists the assets of a run, in input order; can be iterated repeatedly."""

    def __iter__(self) -> Iterator[Asset]:
        """Yield the assets; decodes nothing."""
        ...


@runtime_checkable
class LiveSource(Source, Protocol):
    """A source whose assets arrive over time, such as a camera: nobody knows how many there are.

    Each asset must be read before, or while, the next one is requested.
    """

    @property
    def problem(self) -> str:
        """Why the iteration ended early; empty if it did not."""
        ...

    def stop(self) -> None:
        """End the iteration after what has arrived. Safe in signal handlers."""
        ...

    def close(self) -> None:
        """End the iteration now; can be repeated."""
        ...


@runtime_checkable
class SkippingSource(Source, Protocol):
    """A source that reports the entries it skipped."""

    def skipped(self) -> Sequence[SkippedEntry]:
        """Return what the last iteration skipped."""
        ...


@runtime_checkable
class IdentifiedSource(Source, Protocol):
    """A source that identifies its input, so that two inputs can be compared."""

    def origins(self) -> Sequence[Any]:
        """Return the origins of the last iteration.

        A run into an output that holds results of other origins is refused.
        """
        ...


@runtime_checkable
class CategorizedSource(Source, Protocol):
    """A source whose input has categories of its own, such as an annotated dataset."""

    def compare_categories(self, categories: Categories) -> None:
        """Compare them with those of the model; what differs is a warning, see ``Warns``."""
        ...


@runtime_checkable
class CheckableSource(Source, Protocol):
    """A source that can be checked before any work."""

    def check(self) -> None:
        """Raise ConfigError if there is nothing to list."""
        ...
