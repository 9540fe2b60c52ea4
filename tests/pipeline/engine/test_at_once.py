"""Several forwards at the same time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from scripted import Halved, ListedAsset, Stepped, engine_threads, run

from pipeline.job import Outcome
from pipeline.records import Frame, Predictions

pytestmark = pytest.mark.timeout(20, method="thread")


def stills(n: int) -> list[ListedAsset]:
    return [ListedAsset(f"{i}") for i in range(n)]


def errors(outcomes: list[Outcome]) -> list[str]:
    return [str(outcome.error) for outcome in outcomes if outcome.error]


def test_as_many_as_the_runnable_says() -> None:
    together = threading.Barrier(3, timeout=10)  # breaks unless three are there

    class Meeting(Stepped):
        def forward(self, prepared: Sequence[Halved]) -> list[float]:
            together.wait()
            return super().forward(prepared)

    assert errors(run(stills(12), runnable=Meeting(forwards=3))) == []


@pytest.mark.parametrize("forwards", [1, 2])
def test_no_more_than_the_runnable_says(forwards: int) -> None:
    running: list[int] = []
    free = threading.Semaphore(forwards)

    class Alone(Stepped):
        def forward(self, prepared: Sequence[Halved]) -> list[float]:
            if not free.acquire(blocking=False):
                raise RuntimeError("one too many")
            try:
                running.append(1)
                threading.Event().wait(0.002)
                return super().forward(prepared)
            finally:
                free.release()

    assert errors(run(stills(20), runnable=Alone(forwards=forwards))) == []
    assert len(running) == 20


def test_a_forward_that_ends_first_waits_for_those_before() -> None:
    second = threading.Event()

    class Overtaking(Stepped):
        def forward(self, prepared: Sequence[Halved]) -> list[float]:
            if prepared[0].asset_id == "0":
                assert second.wait(10)
            if prepared[0].asset_id == "1":
                second.set()
            return super().forward(prepared)

    outcomes = run(stills(6), runnable=Overtaking(forwards=2))
    assert errors(outcomes) == []
    assert [outcome.asset.id for outcome in outcomes] == list("012345")


def test_a_runnable_without_steps() -> None:
    together = threading.Barrier(2, timeout=10)

    class Whole(Stepped):
        prepare = None  # type: ignore[assignment]

        def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
            together.wait()
            return super().predict(frames)

    assert errors(run(stills(8), runnable=Whole(forwards=2))) == []


def test_what_ends_one_forward_ends_the_run() -> None:
    class Leaving(Stepped):
        def forward(self, prepared: Sequence[Halved]) -> list[float]:
            if prepared[0].asset_id == "3":
                raise SystemExit(9)
            return super().forward(prepared)

    with pytest.raises(SystemExit):
        run(stills(1000), runnable=Leaving(forwards=3))
    assert engine_threads() == []


def test_each_forward_has_its_share_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 108.0])
    monkeypatch.setattr("pipeline.engine.device.perf_counter", lambda: next(clock))
    assert run(stills(1), runnable=Stepped(forwards=4))[0].timings["forward"] == 2.0
