"""Answered images, and the outcomes that a session commits for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from pipeline.encoding import encode
from pipeline.engine.items import Item
from pipeline.engine.writing import Writing
from pipeline.errors import AssetError
from pipeline.job import Job, Outcome
from pipeline.protocols import Asset
from pipeline.records import Frame
from runners.serve.uploads import Answer


@dataclass(slots=True, eq=False)
class Answered:
    """An answered image that is to be recorded.

    Attributes:
        file: The image as it was received; closed once it is recorded or given up.
        answer: The answer, or the error of the image.
        frame: The image; ``None`` if it was not decoded.
        is_over: Done when the image is recorded or given up.
    """

    file: BinaryIO
    answer: Answer | AssetError
    frame: Frame | None
    is_over: Future[None] = field(default_factory=Future)

    def release(self) -> None:
        """Close the file, and let the answer go out."""
        self.file.close()
        self.is_over.set_result(None)


class AnsweredExecutor:
    """An executor for images that have been answered: writes what the engine made of them.

    Args:
        job: The job, its sinks entered.
        given: The answered images by asset id.
    """

    def __init__(self, job: Job, given: Mapping[str, Answered]) -> None:
        self._job, self._given = job, given

    def run(self, assets: Iterable[Asset]) -> Iterator[Outcome]:
        """Yield the outcomes of answered images; every sink has flushed them."""
        writing = Writing({}, self._job.sinks, encode, self._job.output)
        for outcome in writing.outcomes(self._items(assets)):
            answer = self._given[outcome.asset.id].answer
            yield replace(
                outcome,
                n_dropped=answer.outcome.n_dropped if isinstance(answer, Answer) else 0,
                timings={k: v for k, v in outcome.timings.items() if k != "waiting"},
            )

    def _items(self, assets: Iterable[Asset]) -> Iterator[Item]:
        """Yield what the engine has made of each image, in the form in which it is written."""
        for asset in assets:
            answer, frame = self._given[asset.id].answer, self._given[asset.id].frame
            if isinstance(answer, AssetError):
                if frame is not None:
                    yield Item(asset, frame, error=answer)
                yield Item(asset, error=answer)
                continue
            timings, result = dict(answer.outcome.timings), answer.result
            if result is None:  # a stage has dropped it
                yield Item(asset, answer.frame, seconds=timings)
            else:
                named = replace(result.frame, asset_id=asset.id)
                yield Item(asset, named, predictions=result.predictions, seconds=timings)
            yield Item(asset)
