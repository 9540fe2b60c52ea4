"""Scripted assets, models and sinks for tests of the engine; they record their calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine import Pipeline
from pipeline.job import Outcome
from pipeline.records import Frame, Predictions, Result
from pipeline.testing import make_frame, make_predictions


@dataclass
class ListedAsset:
    id: str
    n_frames: int = 1
    error: Exception | None = None
    size: tuple[int, int] = (8, 8)
    path: Path = Path("x")
    is_still: bool = True

    def fingerprint(self) -> str:
        return self.id

    def frames(self) -> Iterator[Frame]:
        for i in range(self.n_frames):
            yield make_frame(*self.size, asset_id=self.id, index=i)
        if self.error is not None:
            raise self.error


@dataclass
class Stream(ListedAsset):
    """Frames without end, or until it blocks: before frame ``block_at``, for the test's lifetime.

    Attributes:
        blocked: Set when it blocks.
        released: Set it to end the block.
    """

    is_still: bool = False
    n_frames: int = 1 << 62
    block_at: int = -1
    blocked: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    n_decoded: int = 0

    def frames(self) -> Iterator[Frame]:
        for i in range(self.n_frames):
            if i == self.block_at:
                self.blocked.set()
                self.released.wait()
            frame = make_frame(*self.size, asset_id=self.id, index=i)
            self.n_decoded += 1
            yield frame


class ClosableStream(Stream):
    """A stream whose block ends when it is closed."""

    def close(self) -> None:
        self.released.set()


@dataclass
class Scripted:
    """A model that fails if a frame of ``guilty`` is in the batch; records the batches."""

    guilty: tuple[str, ...] = ()
    batch_size: int | str | None = None
    batch_by_shape: bool = False
    forwards: int = 1
    class_names: tuple[str, ...] = ("cat", "dog", "bird")
    batches: list[list[str]] = field(default_factory=list)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        self.batches.append([frame.asset_id for frame in frames])
        if any(frame.asset_id in self.guilty for frame in frames):
            raise RuntimeError("out of luck")
        return [make_predictions(2, size=frame.size) for frame in frames]


@dataclass
class Halved:
    """A model's input: every second pixel."""

    asset_id: str
    pixels: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape[:2])

    @property
    def nbytes(self) -> int:
        return int(self.pixels.nbytes)


@dataclass
class Stepped(Scripted):
    """The same as a pipelined runnable; scores depend on the frames that share a forward."""

    finished_on: set[str] = field(default_factory=set)

    def prepare(self, frame: Frame) -> Halved:
        return Halved(frame.asset_id, frame.image[::2, ::2].copy())

    def forward(self, prepared: Sequence[Halved]) -> list[float]:
        self.batches.append([item.asset_id for item in prepared])
        if any(item.asset_id in self.guilty for item in prepared):
            raise RuntimeError("out of luck")
        together = sum(float(np.mean(item.pixels)) for item in prepared)
        return [together / 1e4 for _ in prepared]

    def finish(self, frame: Frame, output: float) -> Predictions:
        self.finished_on.add(threading.current_thread().name)
        return make_predictions(scores=[output, output / 2], size=frame.size)


@dataclass
class Recording:
    """A sink that records its calls and raises the errors in ``fail``."""

    fail: dict[tuple[str, str], Exception] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    pending: dict[str, list[int]] = field(default_factory=dict)
    flushed: dict[str, list[int]] = field(default_factory=dict)
    discarded: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def _maybe(self, what: str, asset_id: str) -> None:
        if (what, asset_id) in self.fail:
            raise self.fail[what, asset_id]

    def begin(self, asset: Any) -> None:
        self._maybe("begin", asset.id)
        assert not self.pending
        self.begun.append(asset.id)

    def write(self, result: Result) -> None:
        self._maybe("write", result.frame.asset_id)
        self.pending.setdefault(result.frame.asset_id, []).append(result.frame.index)

    def flush(self, asset: Any) -> None:
        self._maybe("flush", asset.id)
        self.flushed[asset.id] = self.pending.pop(asset.id, [])

    def discard(self, asset: Any) -> None:
        self.pending.pop(asset.id, None)
        self.flushed.pop(asset.id, None)
        self.discarded.append(asset.id)


def run(assets: Any, *, runnable: Any = None, sinks: Any = None, **options: Any) -> list[Outcome]:
    stages = options.pop("stages", {})
    pipeline = Pipeline(runnable or Scripted(), stages, sinks or {"s": Recording()}, **options)
    return list(pipeline.run(assets))


def engine_threads() -> list[str]:
    names = ("device", "decode", "finish")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]
