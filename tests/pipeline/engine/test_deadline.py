"""Batches with a deadline: for a source that blocks, such as the requests of a service."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from scripted import ListedAsset, Scripted, Stepped

from pipeline.engine import Pipeline
from pipeline.engine.batches import Batches
from pipeline.engine.items import Item

A, B = (8, 8), (8, 16)
FOREVER_S = 1e6
pytestmark = pytest.mark.timeout(60, method="thread")


class Blocking:
    """A source that blocks after its assets until ``release`` is called."""

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self.assets = [ListedAsset(f"{i}", size=size) for i, size in enumerate(sizes)]
        self._released = threading.Event()

    def __iter__(self) -> Iterator[ListedAsset]:
        yield from self.assets
        self._released.wait()

    def release(self) -> None:
        self._released.set()


def answered(runnable: Scripted, max_wait_s: float, *sizes: tuple[int, int]) -> list[str]:
    """Return the ids of the outcomes that come although the source blocks."""
    source = Blocking(*sizes)
    outcomes = Pipeline(runnable, {}, {}, max_wait_s=max_wait_s).run(source)
    try:
        return [next(outcomes).asset.id for _ in sizes]
    finally:
        source.release()
        assert list(outcomes) == []


@pytest.mark.parametrize("max_wait_s", [0, 0.01])
def test_a_lone_frame_does_not_wait_for_others(max_wait_s: float) -> None:
    for runnable in (Stepped(batch_size=4, batch_by_shape=True), Scripted(batch_size=4)):
        assert answered(runnable, max_wait_s, A) == ["0"]
        assert runnable.batches == [["0"]]


def test_a_full_batch_does_not_wait() -> None:
    runnable = Stepped(batch_size=4, batch_by_shape=True)
    assert answered(runnable, FOREVER_S, A, A, A, A) == ["0", "1", "2", "3"]
    assert runnable.batches == [["0", "1", "2", "3"]]


def test_one_frame_per_forward_does_not_wait() -> None:
    runnable = Stepped(batch_size=1, batch_by_shape=True)
    assert answered(runnable, FOREVER_S, A, B, A) == ["0", "1", "2"]
    assert runnable.batches == [["0"], ["1"], ["2"]]


def test_frames_of_other_shapes_do_not_share_a_forward_when_time_is_up() -> None:
    runnable = Stepped(batch_size=4, batch_by_shape=True)
    assert answered(runnable, 0.05, A, B, A) == ["0", "1", "2"]
    assert all(batch in (["0"], ["1"], ["2"], ["0", "2"]) for batch in runnable.batches)
    assert sorted(name for batch in runnable.batches for name in batch) == ["0", "1", "2"]


def test_several_forwards_at_once_answer_too() -> None:
    for forwards in (1, 3):
        runnable = Stepped(batch_size=4, batch_by_shape=True, forwards=forwards)
        assert answered(runnable, 0.001, A, B, A, B, A) == ["0", "1", "2", "3", "4"]


def frame(size: tuple[int, int]) -> Item:
    asset = ListedAsset("x", size=size)
    return Item(asset, next(asset.frames()), pending=True)


def test_the_oldest_frame_sets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("pipeline.engine.batches.monotonic", lambda: now_s)
    batches = Batches(2, by_shape=True, max_wait_s=5)
    assert batches.patience_s() is None  # nothing waits
    batches.add(frame(A))
    assert batches.patience_s() == 5
    now_s = 103.0
    batches.add(frame(B))
    assert batches.patience_s() == 2
    now_s = 106.0
    assert batches.patience_s() == 0
    assert [len(batch) for batch in batches.rest()] == [1, 1]
    assert batches.patience_s() is None
    batches.add(frame(A))
    assert batches.patience_s() == 5
    assert [len(batch) for batch in batches.add(frame(A))] == [2]
    assert batches.patience_s() is None


def test_without_a_deadline_frames_wait_for_the_window() -> None:
    batches = Batches(2, by_shape=True)
    assert batches.add(frame(A)) == []
    assert batches.patience_s() is None


def test_each_forward_is_reported() -> None:
    for runnable in (
        Stepped(batch_size=2, batch_by_shape=True, guilty=("1",)),
        Scripted(batch_size=2, guilty=("1",)),
    ):
        seen: list[tuple[int, float]] = []
        pipeline = Pipeline(runnable, {}, {}, on_forward=lambda n, s, to=seen: to.append((n, s)))
        assets = [ListedAsset(f"{i}") for i in range(5)]
        assert sum(outcome.error is None for outcome in pipeline.run(assets)) == 4
        assert [n for n, _ in seen] == [2, 2, 1]
        assert all(seconds > 0 for _, seconds in seen)
