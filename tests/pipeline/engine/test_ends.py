"""However a run ends, even with full queues, it ends promptly and leaves no thread behind."""

from __future__ import annotations

import gc
import inspect
import linecache
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from scripted import Halved, ListedAsset, Recording, Scripted, Stepped, engine_threads, run

from pipeline.engine import Pipeline
from pipeline.errors import DeviceLostError
from pipeline.records import Frame, Predictions, Result

PLACES = ("source", "decode", "prepare", "forward", "predict", "finish", "stage", "sink")
ENDS = [
    pytest.param(SystemExit(9), id="SystemExit"),
    pytest.param(KeyboardInterrupt(), id="KeyboardInterrupt"),
    pytest.param(OSError("gone"), id="OSError"),
]
pytestmark = pytest.mark.timeout(20, method="thread")


class Trap:
    """Raises from its ``at``-th call on, after a pause in which the queues before it fill."""

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
@pytest.mark.parametrize("place", ["decode", "prepare", "forward", "predict", "finish"])
def test_a_lost_device_ends_the_run(place: str, forwards: int) -> None:
    lost = DeviceLostError("cuda:0 has failed")
    outcomes = trapped_pipeline(Trap(place, lost, 4), 1, forwards)
    done = []
    with pytest.raises(DeviceLostError) as caught:
        done.extend(outcomes)
    assert caught.value is lost
    assert not [outcome for outcome in done if outcome.error]
    assert engine_threads() == []


@pytest.mark.parametrize("place", ["decode", "prepare", "forward", "predict", "finish", "sink"])
def test_a_failed_frame_is_freed(place: str) -> None:
    """Without a run of the garbage collector: each frame may be hundreds of megabytes."""
    pictures: list[weakref.ref[Any]] = []

    class Listed(Trapped):
        def frames(self) -> Iterator[Frame]:
            for frame in ListedAsset.frames(self):
                pictures.append(weakref.ref(frame.image))
                self.trap.step("decode")
                yield frame

    class Raises(Recording):
        def write(self, result: Result) -> None:
            trap.step("sink")

    class EveryTime(Trap):
        def step(self, place: str) -> None:
            if place == self.place:
                raise OSError("gone")

    trap = EveryTime(place, OSError(), 0)
    assets = [Listed(f"{i}") for i in range(6)]
    for asset in assets:
        asset.trap = trap
    runnable = (Whole if place == "predict" else Steps)(trap, 1)
    gc.collect()
    gc.disable()
    try:
        errors = [each.error for each in Pipeline(runnable, {}, {"sink": Raises()}).run(assets)]
    finally:
        gc.enable()
    for error in errors:
        assert "in step" in error.trace  # for the log
    assert len(pictures) == 6
    assert [each for each in pictures if each() is not None] == []


def test_an_interrupt_at_any_line_of_the_callers_thread() -> None:
    engine = str(Path(inspect.getfile(Pipeline)).parent)

    def interrupted(at: int) -> bool:
        """Raise KeyboardInterrupt at the engine's ``at``-th line; return whether it was reached."""
        left = at

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.startswith(engine):
                return None
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
            # between a block and the end of its ``with`` Python keeps no interrupt out
            if event == "line" and "with ExitStack" not in line:
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            outcomes = Pipeline(Stepped(), {}, {"sink": Recording()}, decode_threads=1).run(
                ListedAsset(f"{i}") for i in range(3)
            )
            with closing(outcomes), suppress(KeyboardInterrupt):
                list(outcomes)
        finally:
            sys.settrace(before)
        return left <= 0

    at = 1
    while interrupted(at):
        deadline = time.monotonic() + 2
        while (alive := engine_threads()) and time.monotonic() < deadline:
            time.sleep(0.001)  # one whose start was cut short is not waited for
        assert alive == [], f"after an interrupt at line event {at}"
        at += 1
    assert at > 100


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
