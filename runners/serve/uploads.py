"""The image of a request as an asset, and the sink that collects its result."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.job import Outcome
from pipeline.protocols import Asset
from pipeline.records import Frame, Result
from pipeline.sources.decode.reading import Reading


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the engine made of an image.

    Attributes:
        outcome: The outcome; its records are in ``line``.
        line: The line of ``predictions.jsonl``, with image id 0; empty if a stage dropped the
            image.
        frame: The image.
        result: Image and predictions; ``None`` if a stage dropped the image.
    """

    outcome: Outcome
    line: bytes
    frame: Frame
    result: Result | None


@dataclass(slots=True, eq=False)
class Upload:
    """A decoded image of a request, as an asset.

    Attributes:
        id: Name that the client gave it.
        frame: The image.
        sha256: Digest of the bytes that were decoded, in hexadecimal digits.
        answer: Set by the engine's thread.
        result: Set by ``Answers``.
    """

    id: str
    frame: Frame
    sha256: str
    answer: Future[Answer] = field(default_factory=Future)
    result: Result | None = None
    is_still: bool = True

    @classmethod
    def of(cls, name: str, reading: Reading) -> Upload:
        """Return a decoded image as an asset."""
        return cls(name, Frame(reading.image, name), reading.sha256)

    @property
    def path(self) -> Path:
        """The name as a path; there is no such file."""
        return Path(self.id)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the bytes that were decoded."""
        return self.sha256

    def frames(self) -> Iterator[Frame]:
        """Yield the image."""
        yield self.frame

    def resolve(self, outcome: Outcome) -> None:
        """Pass the outcome on to the request, if it still waits."""
        line = b"".join(outcome.records)
        outcome.records.close()
        if outcome.error is not None:
            self.refuse(outcome.error)
        elif self.answer.set_running_or_notify_cancel():
            self.answer.set_result(Answer(outcome, line, self.frame, self.result))

    def refuse(self, error: Exception) -> None:
        """Pass an error on to the request, if it still waits."""
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(error)


class Answers:
    """A sink that gives each upload its result."""

    outputs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._result: Result | None = None

    def __enter__(self) -> Answers:
        """Do nothing."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing."""

    def begin(self, asset: Asset) -> None:
        """Forget the previous result."""
        self._result = None

    def write(self, result: Result) -> None:
        """Keep the result."""
        self._result = result

    def flush(self, asset: Asset) -> None:
        """Give the asset its result."""
        if isinstance(asset, Upload):
            asset.result = self._result
        self._result = None

    def discard(self, asset: Asset) -> None:
        """Forget the result."""
        self._result = None
