"""Memory does not grow with the input and stays within its bounds."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence

import pytest
from scripted import Halved, ListedAsset, Scripted, Stepped, run

from pipeline.engine import Pipeline, default_decode_threads
from pipeline.records import Frame, Predictions, Result
from pipeline.testing import make_predictions

SIDE = 128  # 49,152 bytes a frame


class Alive:
    """Counts the images in memory."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def add(self, frame: Frame) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        weakref.finalize(frame.image, self._gone)

    def _gone(self) -> None:
        with self._lock:
            self.now -= 1


class Counted(ListedAsset):
    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            COUNTER.add(frame)
            yield frame


COUNTER = Alive()


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Alive:
    counter = Alive()
    monkeypatch.setitem(globals(), "COUNTER", counter)
    return counter


def slow(result: Result) -> Result:
    time.sleep(0.001)
    return result


class SlowModel(Scripted):
    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        time.sleep(0.001)
        return [make_predictions(0, size=frame.size) for frame in frames]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("n_frames", [1, 40], ids=["stills", "videos"])
@pytest.mark.parametrize("slowest", ["model", "writer"])
@pytest.mark.parametrize(
    ("queue_mb", "most"),
    [
        # before and after the device one that always fits; held by two decoders, by the device (a
        # window of four, and one that does not fit into the next queue), and by the writer
        pytest.param(0.001, 2 + 2 + 5 + 1, id="smaller than a frame"),
        # half of it is 2 frames
        pytest.param(0.2, 4 + 2 + 5 + 1, id="of four frames"),
        # 4 + 2 * 2 frames wait on either side
        pytest.param(1000, 16 + 2 + 5 + 1, id="by number"),
    ],
)
def test_queues_are_bounded(
    alive: Alive, queue_mb: float, most: int, slowest: str, n_frames: int
) -> None:
    outcomes = run(
        [Counted(f"{i}", n_frames, size=(SIDE, SIDE)) for i in range(120 // n_frames)],
        runnable=SlowModel() if slowest == "model" else Stepped(),
        stages={"slow": slow} if slowest == "writer" else {},
        queue_mb=queue_mb,
        decode_threads=2,
    )
    assert not any(outcome.error for outcome in outcomes)
    assert 2 <= alive.most <= most


@pytest.mark.parametrize(
    ("queue_mb", "most"),
    [
        pytest.param(2.2, 1 + 1 + 1, id="one waits"),  # and one is forwarded, one decoded
        pytest.param(6.6, 3 + 1 + 1, id="three wait"),
    ],
)
def test_what_is_prepared_counts(queue_mb: float, most: int) -> None:
    ahead: list[int] = []
    decoded: list[str] = []

    class Large(Stepped):
        def prepare(self, frame: Frame) -> Halved:
            decoded.append(frame.asset_id)
            return Halved(frame.asset_id, frame.image.repeat(20, axis=0))  # a megabyte

        def forward(self, prepared: Sequence[Halved]) -> list[float]:
            time.sleep(0.005)
            ahead.append(len(decoded) - len(ahead))
            return [0.5 for _ in prepared]

    assets = [ListedAsset(f"{i}", size=(SIDE, SIDE)) for i in range(30)]
    run(assets, runnable=Large(), queue_mb=queue_mb, decode_threads=1)
    assert 2 <= max(ahead) <= most


def test_each_forward_holds_its_own(alive: Alive) -> None:
    class Slow(Stepped):
        def forward(self, prepared: Sequence[Halved]) -> list[float]:
            time.sleep(0.002)
            return super().forward(prepared)

    run(
        [Counted(f"{i}", size=(SIDE, SIDE)) for i in range(120)],
        runnable=Slow(forwards=3),
        queue_mb=0.001,
        decode_threads=2,
    )
    assert alive.most <= 2 + 2 + (4 + 1) + 2 + 1  # as above, and two more forwards


def test_a_window_is_all_that_batches_hold_back(alive: Alive) -> None:
    sizes = [(SIDE, SIDE + 4 * (i % 9)) for i in range(180)]  # never two alike side by side
    run(
        [Counted(f"{i}", size=size) for i, size in enumerate(sizes)],
        runnable=Stepped(batch_size=4, batch_by_shape=True),
        queue_mb=0.001,
        decode_threads=2,
    )
    assert alive.most <= 2 + 2 + (16 + 1) + 1


def test_nothing_is_kept_when_the_run_is_over(alive: Alive) -> None:
    outcomes = run([Counted(f"{i}") for i in range(50)], runnable=Stepped(guilty=("7",)))
    assert [bool(outcome.error) for outcome in outcomes].count(True) == 1
    for outcome in outcomes:  # an error's traceback refers to the frame
        if outcome.error is not None and outcome.error.__cause__ is not None:
            outcome.error.__cause__.__traceback__ = None
    del outcomes, outcome
    assert alive.now == 0


def test_the_number_of_open_assets_is_bounded() -> None:
    n_opened = 0

    def listing() -> Iterator[ListedAsset]:
        nonlocal n_opened
        for i in range(500):
            n_opened += 1
            yield ListedAsset(f"{i}", n_frames=0)  # holds nothing that could fill a queue

    outcomes = Pipeline(Scripted(), {}, {}, decode_threads=2).run(listing())
    for done, _ in enumerate(outcomes, start=1):
        assert n_opened <= done + 2 * 8 + 4 + 2 + 1


def test_default_decode_threads_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, 1), (2, 1), (4, 2), (16, 8), (128, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert default_decode_threads() == threads
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert default_decode_threads() == 3
