"""The inputs of a finished run as assets, with or without the pixels of their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import errors
from pipeline.encoding import NAME as PREDICTIONS
from pipeline.errors import AssetError, DecodeError, PartialError
from pipeline.protocols import Asset, Closable, ReadableAsset, VersionedAsset, supports
from pipeline.recorded.decoding import RecordedFrame
from pipeline.recorded.run import RecordedInput, RecordedRun
from pipeline.records import Frame


@dataclass(slots=True)
class RecordedAsset:
    """One input of a finished run, of which only the records are read.

    Attributes:
        id: Its id.
        recorded: What the run recorded of it.
        run: The run.
        is_still: Whether it has exactly one frame.
        image_id: Id of its first frame, if the source of the run assigned it.
        columns: Its columns in the run.
    """

    id: str
    recorded: RecordedInput
    run: RecordedRun
    is_still: bool = field(init=False)
    image_id: int | None = field(init=False)
    columns: Mapping[str, Any] | None = field(init=False)

    def __post_init__(self) -> None:
        self.is_still, self.image_id = self.recorded.is_still, self.recorded.image_id
        self.columns = self.recorded.columns

    @property
    def path(self) -> Path:
        """Where its records are; not a file, so that no version of a file counts."""
        return self.run.path / PREDICTIONS / self.id

    @property
    def size_bytes(self) -> int | None:
        """Size of the file that the run decoded; ``None`` if it was never read."""
        return self.recorded.size_bytes

    @property
    def mtime_ns(self) -> int | None:
        """``None``: the content decides."""
        return None

    def fingerprint(self) -> str:
        """Return the SHA-256 of the content that the run decoded, in hexadecimal digits.

        Raises:
            DecodeError: The run could not read it.
        """
        if self.recorded.sha256 is None:
            raise DecodeError("the run could not read it", asset_id=self.id)
        return self.recorded.sha256

    def frames(self) -> Iterator[RecordedFrame]:
        """Yield a frame for each result, with a black image.

        Raises:
            AssetError: The input failed in the run; has the recorded step and message. A
                PartialError after the last frame if the run could not decode all of it.
            OutputError: The results cannot be read.
        """
        if self.recorded.failure is not None:
            raise _failure(self.id, self.recorded.failure)
        for result in self.run.results(self.recorded):
            yield RecordedFrame.of(result, self.id, None)
        self._check_whole()

    def _check_whole(self) -> None:
        if self.recorded.partial is not None:
            raise _failure(self.id, self.recorded.partial)


@dataclass(slots=True)
class RecordedImage(RecordedAsset):
    """One input of a finished run, with the pixels of its file.

    Attributes:
        image: The file; ``None`` if the input no longer lists it.
    """

    image: Asset | None

    @property
    def path(self) -> Path:
        """The file that it is read from."""
        return self.run.path / PREDICTIONS / self.id if self.image is None else self.image.path

    @property
    def size_bytes(self) -> int | None:
        """Size of the file when it was last read; ``None`` before that."""
        return self.image.size_bytes if supports(self.image, VersionedAsset) else None

    @property
    def mtime_ns(self) -> int | None:
        """Modification time of that file."""
        return self.image.mtime_ns if supports(self.image, VersionedAsset) else None

    @property
    def reader(self) -> Any:
        """Reads and decodes the file, if it is replaceable."""
        return self.image.reader if supports(self.image, ReadableAsset) else None

    @reader.setter
    def reader(self, reader: Any) -> None:
        if supports(self.image, ReadableAsset):
            self.image.reader = reader

    def close(self) -> None:
        """Stop a blocked read, if the file supports it."""
        if supports(self.image, Closable):
            self.image.close()

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's content.

        Raises:
            DecodeError: The file cannot be read.
        """
        if self.image is None:
            raise self._missing()
        return self.image.fingerprint()

    def frames(self) -> Iterator[RecordedFrame]:
        """Decode the file and yield the frames that have a result.

        Raises:
            DecodeError: The file is missing, or not the one that the run processed. A PartialError
                after the last frame if the run could not decode all of it.
        """
        if self.image is None:
            raise self._missing()
        results = self.run.results(self.recorded)
        result = next(results, None)
        for i, frame in enumerate(_intact(self.image)):
            if i == 0 and self.image.fingerprint() != self.recorded.sha256:
                raise DecodeError(
                    f"the file was changed after the run in '{self.run.path}' processed it; "
                    "resume that run first",
                    asset_id=self.id,
                )
            if result is None:
                break
            if result.index == frame.index:
                yield RecordedFrame.of(result, self.id, frame.image)
                result = next(results, None)
        if result is not None:
            raise DecodeError(f"frame {result.index} is missing", asset_id=self.id)
        self._check_whole()

    def _missing(self) -> DecodeError:
        return DecodeError(
            "no such file where the run found it; if the images were moved, set source.root",
            asset_id=self.id,
        )


def _intact(asset: Asset) -> Iterator[Frame]:
    with suppress(PartialError):  # the run noticed the damage too
        yield from asset.frames()


def _failure(asset_id: str, line: Any) -> AssetError:
    kind = getattr(errors, str(line.get("error")), None)
    if not (isinstance(kind, type) and issubclass(kind, AssetError)):
        kind = AssetError
    return kind(
        str(line.get("message", "it failed")),
        asset_id=asset_id,
        step=str(line.get("step") or ""),
        attempts=int(line.get("attempts", 1)),
    )
