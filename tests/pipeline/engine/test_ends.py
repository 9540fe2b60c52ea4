"""However a run ends, with queues that are full: it ends at once, and leaves no thread behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from scripted import Halved, ListedAsset, Recording, Scripted, Stepped, engine_threads, run

from pipeline.engine import Pipeline
from pipeline.types import Frame, Predictions, Result

PLACES = ("source", "decode", "prepare", "forward", "predict", "finish", "stage", "sink")
ENDS = [
    pytest.param(SystemExit(9), id="SystemExit"),
    pytest.param(KeyboardInterrupt(), id="KeyboardInterrupt"),
    pytest.param(OSError("gone"), id="OSError"),
]
pytestmark = pytest.mark.timeout(20, method="thread")


class Trap:
    """Raises from its ``at``-th call on, once all the queues that lead there had time to fill."""

    def __init__(self, place: str, exc: BaseException, at: int) -> None:
        self.place, self.exc, self.at = place, exc, at

    def step(self, place: str) -> None:
        if place == self.place:
            self.at -= 1
            if self.at == -1:
                time.sleep(0.03)
            if self.at < 0:
                raise self.exc


class Trapped(ListedAsset):
    trap: Any = None

    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            self.trap.step("decode")
            yield frame


class Steps(Stepped):
    def __init__(self, trap: Trap, forwards: int) -> None:
        super().__init__(batch_size=2, batch_by_shape=True, forwards=forwards)
        self.trap = trap

    def prepare(self, frame: Frame) -> Halved:
        self.trap.step("prepare")
        return super().prepare(frame)

    def forward(self, prepared: Sequence[Halved]) -> list[float]:
        self.trap.step("forward")
        return super().forward(prepared)

    def finish(self, frame: Frame, output: float) -> Predictions:
        self.trap.step("finish")
        return super().finish(frame, output)


class Whole(Scripted):
    def __init__(self, trap: Trap, forwards: int) -> None:
        super().__init__(batch_size=2, forwards=forwards)
        self.trap = trap

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        self.trap.step("predict")
        return super().predict(frames)


def trapped_pipeline(trap: Trap, n_frames: int, forwards: int) -> Iterator[Any]:
    def listing() -> Iterator[ListedAsset]:
        for i in range(30):
            trap.step("source")
            asset = Trapped(f"{i}", n_frames)
            asset.trap = trap
            yield asset

    def stage(result: Result) -> Result:
        trap.step("stage")
        return result

    class Writes(Recording):
        def write(self, result: Result) -> None:
            if result.frame.asset_id in "01":
                time.sleep(0.01)  # so that the queues before it fill
            trap.step("sink")
            super().write(result)

    runnable = (Whole if trap.place == "predict" else Steps)(trap, forwards)
    pipeline = Pipeline(
        runnable, {"stage": stage}, {"sink": Writes()}, decode_threads=2, queue_mb=0.001
    )
    return pipeline.run(listing())


WHEN = [  # from which call on, frames an asset, forwards at once
    pytest.param(0, 1, 1, id="first-stills"),
    pytest.param(9, 1, 1, id="later-stills"),
    pytest.param(0, 5, 1, id="first-videos"),
    pytest.param(9, 5, 1, id="later-videos"),
    pytest.param(0, 1, 3, id="first-stills-at once"),
    pytest.param(9, 5, 3, id="later-videos-at once"),
]


@pytest.mark.parametrize(("at", "n_frames", "forwards"), WHEN)
@pytest.mark.parametrize("exc", ENDS)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_raises_wherever(
    place: str, exc: BaseException, at: int, n_frames: int, forwards: int
) -> None:
    outcomes = trapped_pipeline(Trap(place, exc, at), n_frames, forwards)
    if isinstance(exc, Exception) and place != "source":
        failed = [outcome for outcome in outcomes if outcome.error]
        assert failed
        assert all("gone" in str(outcome.error) for outcome in failed)
    else:
        with pytest.raises(type(exc)) as caught:
            list(outcomes)
        assert caught.value is exc
    assert engine_threads() == []


@pytest.mark.parametrize("forwards", [1, 3])
@pytest.mark.parametrize("n_frames", [1, 50])
@pytest.mark.parametrize("kind", [Scripted, Stepped])
def test_a_consumer_that_stops(kind: type[Scripted], n_frames: int, forwards: int) -> None:
    pipeline = Pipeline(kind(forwards=forwards), {}, {})
    outcomes = pipeline.run(ListedAsset(f"{i}", n_frames) for i in range(1000))
    next(outcomes)
    time.sleep(0.03)
    outcomes.close()
    assert engine_threads() == []


@pytest.mark.parametrize("forwards", [1, 3])
@pytest.mark.parametrize("exc", ENDS)
def test_a_consumer_that_raises(exc: BaseException, forwards: int) -> None:
    pipeline = Pipeline(Stepped(forwards=forwards), {}, {})
    outcomes = pipeline.run(ListedAsset(f"{i}", 3) for i in range(1000))
    next(outcomes)
    time.sleep(0.03)
    with pytest.raises(type(exc)):
        outcomes.throw(exc)
    assert engine_threads() == []


# In one process with torch.compile and OpenVINO at work before it, it has ended Python 3.11.7
# itself (SIGSEGV) twice; alone it passes. tests/cli interrupts real runs.
@pytest.mark.nightly
def test_a_signal_while_the_writer_waits() -> None:
    import signal

    class Slow(Stepped):
        def forward(self, prepared: Sequence[Halved]) -> list[float]:
            time.sleep(0.2)
            return super().forward(prepared)

    # not SIGALRM, which is pytest-timeout's
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    main = threading.main_thread().ident
    alarm = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGUSR1))
    try:
        alarm.start()
        with pytest.raises(KeyboardInterrupt):
            run([ListedAsset(f"{i}") for i in range(50)], runnable=Slow())
    finally:
        alarm.join()
        signal.signal(signal.SIGUSR1, before)
    assert engine_threads() == []


def test_assets_before_the_source_raised_are_finished() -> None:
    def listing() -> Iterator[ListedAsset]:
        yield from (ListedAsset(f"{i}") for i in range(3))
        raise OSError("the folder went away")

    outcomes = Pipeline(Scripted(), {}, {}).run(listing())
    assert [next(outcomes).asset.id for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(OSError, match="went away"):
        next(outcomes)
    assert engine_threads() == []


def test_nothing_to_do() -> None:
    assert run([]) == []
    assert run([], runnable=Stepped()) == []
    assert engine_threads() == []
